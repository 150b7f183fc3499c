// The picture on its canvas, with a map over the part that the network saw.

// Dark to light in even steps for the eye (after matplotlib's inferno).
const COLOURS = [
  [0, 0, 4], [27, 12, 66], [75, 12, 107], [120, 28, 109], [165, 45, 96],
  [207, 68, 70], [237, 105, 37], [251, 155, 6], [247, 209, 61], [252, 255, 164],
];

export async function decode(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return null; // the server may know formats that the browser does not
  }
}

function colour(value) {
  const place = value * (COLOURS.length - 1);
  const low = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[low].map((part, i) => part + (COLOURS[low + 1][i] - part) * (place - low));
}

function heat(map) {
  const sheet = new OffscreenCanvas(map.width, map.height);
  const context = sheet.getContext("2d");
  const pixels = context.createImageData(map.width, map.height);
  // Where nothing speaks for the class the picture stays visible.
  map.values.forEach((value, i) => pixels.data.set([...colour(value), 90 + 165 * value], 4 * i));
  context.putImageData(pixels, 0, 0);
  return sheet;
}

/** Draw a picture into a canvas, and a map (or none) over its crop with a strength of 0 to 1. */
export function draw(canvas, bitmap, crop, map, strength) {
  const ratio = bitmap.height / bitmap.width;
  canvas.width = 560;
  canvas.height = Math.round(560 * Math.min(Math.max(ratio, 0.4), 1.25));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const scale = Math.min(canvas.width / bitmap.width, canvas.height / bitmap.height);
  const left = (canvas.width - bitmap.width * scale) / 2;
  const top = (canvas.height - bitmap.height * scale) / 2;
  context.drawImage(bitmap, left, top, bitmap.width * scale, bitmap.height * scale);
  if (!crop) return;
  const box = [left + crop.left * scale, top + crop.top * scale, crop.width * scale, crop.height * scale];
  if (map && strength > 0) {
    context.save();
    context.beginPath();
    context.rect(...box);
    context.clip();
    context.globalAlpha = strength;
    context.drawImage(heat(map), ...box);
    context.restore();
  }
  context.strokeStyle = "rgb(255 255 255 / 85%)";
  context.lineWidth = 2;
  context.strokeRect(box[0] + 1, box[1] + 1, box[2] - 2, box[3] - 2);
}

/** Say on the canvas that there is nothing to draw. */
export function blank(canvas, words) {
  canvas.width = 560;
  canvas.height = 420;
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(canvas).color;
  context.globalAlpha = 0.6;
  context.font = "18px system-ui, sans-serif";
  context.textAlign = "center";
  context.fillText(words, 280, 214);
}
