// The picture on its canvas, with a map over the part that the network saw.

const MAX_SIDE = 1400; // pixels of the longer side, for drawing
// Dark to light in even steps for the eye (after matplotlib's inferno).
const COLOURS = [
  [0, 0, 4], [27, 12, 66], [75, 12, 107], [120, 28, 109], [165, 45, 96],
  [207, 68, 70], [237, 105, 37], [251, 155, 6], [247, 209, 61], [252, 255, 164],
];

/** Decode an upright image for drawing, with its full size; null if the browser cannot decode it. */
export async function decode(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
  } catch {
    return null; // the server may support formats that the browser does not
  }
  const { width, height } = bitmap;
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
  const sheet = document.createElement("canvas");
  sheet.width = Math.max(1, Math.round(width * scale));
  sheet.height = Math.max(1, Math.round(height * scale));
  const context = sheet.getContext("2d");
  context.fillStyle = "#fff"; // like the server, which puts transparent images on white
  context.fillRect(0, 0, sheet.width, sheet.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, sheet.width, sheet.height);
  bitmap.close(); // a photograph takes a hundred megabytes
  return { sheet, width, height };
}

function colour(value) {
  const place = value * (COLOURS.length - 1);
  const low = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[low].map((part, i) => part + (COLOURS[low + 1][i] - part) * (place - low));
}

function heat(map) {
  const sheet = document.createElement("canvas");
  [sheet.width, sheet.height] = [map.width, map.height];
  const context = sheet.getContext("2d");
  const pixels = context.createImageData(map.width, map.height);
  // The picture stays visible where there is little evidence.
  map.values.forEach((value, i) => pixels.data.set([...colour(value), 110 + 145 * value], 4 * i));
  context.putImageData(pixels, 0, 0);
  return sheet;
}

export const coversImage = (crop, image) => crop.width > image.width - 1 && crop.height > image.height - 1;

/** Draw an image as large as the canvas allows; returns where it is: context, sharp, scale, corner, size. */
function drawImage(canvas, image) {
  const sharp = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * sharp));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * sharp));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const scale = Math.min(canvas.width / image.width, canvas.height / image.height);
  const size = [image.width * scale, image.height * scale];
  const corner = [(canvas.width - size[0]) / 2, (canvas.height - size[1]) / 2];
  context.drawImage(image.sheet, ...corner, ...size);
  return { context, sharp, scale, corner, size };
}

/** Draw an image, and over its crop a map, if not null, with an opacity of 0 to 1. */
export function draw(canvas, image, crop, map, opacity) {
  const { context, sharp, scale, corner, size } = drawImage(canvas, image);
  if (!crop) return;
  const box = [corner[0] + crop.left * scale, corner[1] + crop.top * scale, crop.width * scale, crop.height * scale];
  if (map && opacity > 0) drawMap(context, box, map, opacity);
  if (coversImage(crop, image)) return;
  context.beginPath();
  context.rect(...corner, ...size);
  context.rect(...box);
  context.fillStyle = "rgb(0 0 0 / 45%)";
  context.fill("evenodd");
  context.strokeStyle = "#fff";
  context.lineWidth = 2 * sharp;
  context.strokeRect(...box);
}

function drawMap(context, box, map, opacity) {
  context.save();
  context.beginPath();
  context.rect(...box);
  context.clip();
  context.globalAlpha = opacity;
  // The picture becomes grey, so that all colour is the map's.
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "#808080";
  context.fillRect(...box);
  context.globalCompositeOperation = "source-over";
  context.drawImage(heat(map), ...box);
  context.restore();
}

/** The colour of a category, the same everywhere (detection/pictures.py): red, green and blue, 0 to 255. */
export function categoryColour(index) {
  const hue = 6 * ((0.02 + 0.618034 * index) % 1), high = 0.75, low = high * 0.15;
  const part = (shift) => {
    const place = (shift + hue) % 6;
    return Math.round(255 * (high - (high - low) * Math.max(0, Math.min(place, 4 - place, 1))));
  };
  return [part(5), part(3), part(1)];
}

/** Draw an image with boxes and masks: objects of the server, best first. All but `chosen`, if not null, are thin
    and have no mask. */
export function drawObjects(canvas, image, objects, chosen) {
  const { context, sharp, scale, corner } = drawImage(canvas, image);
  context.font = `600 ${13 * sharp}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  for (const one of [...objects].reverse()) { // the best on top
    const colour = categoryColour(one.index);
    const [x1, y1, x2, y2] = one.box.map((side, i) => corner[i % 2] + side * scale);
    if (one.polygons && (chosen === null || chosen === one)) fill(context, one.polygons, colour, corner, scale);
    context.strokeStyle = `rgb(${colour})`;
    context.lineWidth = (chosen === null ? 2.5 : chosen === one ? 5 : 1.2) * sharp;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    if (chosen === null || chosen === one) {
      label(context, `${one.category} ${one.score.toFixed(2)}`, colour, x1, y1, canvas.width, sharp);
    }
  }
}

function fill(context, polygons, colour, corner, scale) {
  context.beginPath();
  for (const points of polygons) {
    for (let i = 0; i < points.length; i += 2) {
      const place = [corner[0] + points[i] * scale, corner[1] + points[i + 1] * scale];
      if (i) context.lineTo(...place);
      else context.moveTo(...place);
    }
    context.closePath();
  }
  context.fillStyle = `rgb(${colour.join(" ")} / 45%)`;
  context.fill("evenodd"); // holes are polygons, too
}

function label(context, words, colour, left, top, width, sharp) {
  const size = context.measureText(words).width + 10 * sharp, height = 20 * sharp;
  const x = Math.max(0, Math.min(left, width - size)), y = top >= height ? top - height : Math.max(0, top);
  context.fillStyle = `rgb(${colour})`;
  context.fillRect(x, y, size, height);
  const light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2];
  context.fillStyle = light > 120 ? "#000" : "#fff";
  context.fillText(words, x + 5 * sharp, y + height / 2);
}
