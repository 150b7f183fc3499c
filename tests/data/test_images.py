"""Image files of every kind become the same upright RGB pixels; bad ones are one clear error."""

import io
import pickle
import struct
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin, features

from resnets.data import images
from resnets.data.images import ImageError
from resnets.data.preprocessing import resize_shorter
from resnets.support.errors import UserError

# The package silences these; pytest makes its own list of filters.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")


def picture(width=96, height=64):
    """A smooth picture whose four corners differ."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / (width - 1), 255 * y / (height - 1)
    return np.stack([red, green, np.full_like(red, 60)], 2).astype(np.uint8)


def saved(image, kind, **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def decoded(content, **settings):
    image = images.decode(content, "it", **settings)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def close(a, b, tolerance=8):
    assert a.shape == b.shape
    return np.abs(a - b.astype(int)).mean() < tolerance


LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "PPM": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_keep_every_pixel(kind):
    pixels = picture()
    content = saved(Image.fromarray(pixels), kind, **LOSSLESS[kind])
    assert np.array_equal(decoded(content), pixels)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"subsampling": 0}),
        ("WEBP", {}),
        ("GIF", {}),
        ("AVIF", {}),
    ],
)
def test_lossy_formats_come_close(kind, settings):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    pixels = picture()
    assert close(decoded(saved(Image.fromarray(pixels), kind, **settings)), pixels)


def test_cmyk_is_not_inverted():
    pixels = picture()
    assert close(decoded(saved(Image.fromarray(pixels).convert("CMYK"), "JPEG")), pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_greyscale_has_three_equal_channels(kind):
    grey = picture()[..., 0]
    pixels = decoded(saved(Image.fromarray(grey), kind))
    assert np.array_equal(pixels[..., 0], pixels[..., 2])
    assert close(pixels[..., 0], grey, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind):
    grey = picture()[..., 0]
    pixels = decoded(saved(Image.fromarray(grey.astype(np.uint16) * 257), kind))
    assert np.array_equal(pixels[..., 1], grey)


def test_sixteen_bit_rgb():
    import struct
    import zlib

    pixels = picture()

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = pixels.shape[:2]
    wide = (pixels.astype(np.uint16) * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    content += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.array_equal(decoded(content), pixels)


def test_black_and_white():
    dots = np.arange(64 * 64).reshape(64, 64) % 3 == 0
    pixels = decoded(saved(Image.fromarray(dots), "PNG"))
    assert np.array_equal(pixels[..., 0], dots * 255)


def test_transparency_is_over_white():
    pixels = np.dstack([picture(), np.full((64, 96), 255, np.uint8)])
    pixels[:32, :, 3] = 0
    pixels[32:, :48, 3] = 128
    for content in (
        saved(Image.fromarray(pixels), "PNG"),
        saved(Image.fromarray(pixels), "WEBP", lossless=True, exact=True),
    ):
        shown = decoded(content)
        assert (shown[:32] == 255).all()
        assert np.array_equal(shown[32:, 48:], pixels[32:, 48:, :3])
        half = (pixels[32:, :48, :3].astype(int) + 255) / 2
        assert np.abs(shown[32:, :48] - half).max() <= 2


def test_palette_with_transparent_entries():
    image = Image.fromarray(np.repeat(np.arange(4, dtype=np.uint8), 16).reshape(8, 8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    shown = decoded(saved(image, "PNG", transparency=bytes([255, 0, 255, 255])))
    assert shown[0, 0].tolist() == [255, 0, 0]
    assert shown[2, 0].tolist() == [255, 255, 255]
    assert shown[4, 0].tolist() == [0, 0, 255]


def test_a_colour_key_is_transparent():
    pixels = picture()
    pixels[:8] = (10, 20, 30)
    shown = decoded(saved(Image.fromarray(pixels), "PNG", transparency=(10, 20, 30)))
    assert (shown[:8] == 255).all()
    assert np.array_equal(shown[8:], pixels[8:])


UNTURNED = {  # what a viewer does with each of EXIF's orientations
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("JPEG", {}),
        ("PNG", {}),
        ("WEBP", {}),
        ("AVIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
@pytest.mark.parametrize("orientation", UNTURNED)
def test_exif_orientation(orientation, kind, settings):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    pixels = picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(pixels), kind, exif=exif, **settings)
    upright = decoded(content)
    assert close(upright, UNTURNED[orientation](pixels))
    header = images.read_header(content, "it")
    assert header.orientation == orientation
    assert (header.width, header.height) == (96, 64)  # as stored
    assert header.upright_size == (upright.shape[1], upright.shape[0])


@pytest.mark.parametrize("kind", ["eXIf", "XMP", "text"])
@pytest.mark.parametrize("late", [False, True])
def test_an_orientation_of_a_png_counts_wherever_it_is(kind, late):
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    if kind == "XMP":
        text.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta><r tiff:Orientation="6"/></x:xmpmeta>')
    elif kind == "text":
        text.add_text("Raw profile type exif", "\nexif\n 1\n" + exif.tobytes().hex())
    settings = {"exif": exif} if kind == "eXIf" else {"pnginfo": text}
    content = saved(Image.fromarray(picture()), "PNG", **settings)
    if late:
        name = {"eXIf": b"eXIf", "XMP": b"iTXt", "text": b"tEXt"}[kind]
        start = content.index(name) - 4
        end = start + 12 + int.from_bytes(content[start : start + 4])
        content = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    assert np.array_equal(decoded(content), UNTURNED[6](picture()))
    assert images.read_header(content, "it").orientation == 6


@pytest.mark.parametrize("turn", [0, 9, 700])
def test_an_impossible_orientation_is_upright(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    pixels = picture()
    assert close(decoded(saved(Image.fromarray(pixels), "JPEG", exif=exif)), pixels)


def test_broken_exif_data_do_not_cost_the_image():
    pixels = picture()
    content = saved(Image.fromarray(pixels), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert close(decoded(content), pixels)
    content = saved(Image.fromarray(pixels), "JPEG", exif=b"Exif\0\0nothing like a table")
    assert close(decoded(content), pixels)


LARGE = Image.fromarray(picture(300, 300))


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", "empty-file", "the file is empty"),
        (b"<html>404 not found</html>", "not-an-image", "not an image"),
        (saved(LARGE, "JPEG")[:2000], "truncated", "cannot be read"),
        (saved(LARGE, "PNG")[:500], "truncated", "cannot be read"),
        (saved(LARGE, "WEBP")[:300], "truncated", "cannot be read"),
        (saved(LARGE, "TIFF")[:-2000], "truncated", "cannot be read"),
        (saved(LARGE, "BMP")[:2000], "truncated", "cannot be read"),
        (saved(Image.new("1", (13_000, 9_000)), "PNG"), "too-large", "too large"),
        (saved(Image.new("1", (20_000, 9_000)), "PNG"), "too-large", "too large"),
    ],
    ids=[
        "empty", "text", "cut jpeg", "cut png", "cut webp", "cut tiff", "cut bmp", "large", "bomb",
    ],
)  # fmt: skip
@pytest.mark.parametrize("shorter", [None, 32])
def test_a_bad_file_is_one_clear_error(content, kind, message, shorter):
    with pytest.raises(ImageError, match=message) as caught:
        images.decode(content, "folder/it.jpg", shorter)
    assert caught.value.kind == kind
    assert "folder/it.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), copy.kind, str(copy)) == (ImageError, kind, str(caught.value))


def test_an_avif_without_its_end_counts_as_truncated():
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    with pytest.raises(ImageError) as caught:
        images.decode(saved(LARGE, "AVIF")[:-9], "it")
    assert caught.value.kind == "truncated"


@pytest.mark.parametrize("message", ["truncated", "end of file", "too large", "not an image"])
def test_the_kind_of_an_error_does_not_come_from_its_text(message, monkeypatch):
    def fail(self):
        raise OSError(message)

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(ImageError, match=message) as caught:
        images.decode(SPOILT, "it")
    assert caught.value.kind == "corrupt"


@pytest.mark.parametrize("place", [4, 40, 200])
def test_a_png_with_a_broken_stream_is_an_error(place):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    content = bytearray(saved(Image.fromarray(noise), "PNG"))
    start = content.index(b"IDAT") + place
    content[start : start + 8] = b"\xff" * 8
    with pytest.raises(ImageError, match="cannot be read") as caught:
        images.decode(bytes(content), "it")
    assert caught.value.kind == "corrupt"


@given(st.integers(0, 5000), st.integers(0, 255))
def test_a_changed_byte_gives_an_image_or_a_user_error(place, value):
    content = bytearray(SPOILT)
    content[place % len(content)] = value
    try:
        image = images.decode(bytes(content), "it")
    except UserError:
        return
    assert image.mode == "RGB"


SPOILT = saved(Image.fromarray(picture(40, 30)), "PNG")


def test_reading_a_missing_file(tmp_path):
    with pytest.raises(ImageError, match="no such image") as caught:
        images.read_image(tmp_path / "absent.jpg")
    assert caught.value.kind == "unreadable"
    with pytest.raises(ImageError, match="cannot be read") as caught:
        images.read_image(tmp_path)
    assert caught.value.kind == "unreadable"


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 100))
def test_a_jpeg_is_scaled_only_where_enough_pixels_remain(width, height, shorter):
    content = saved(Image.new("RGB", (width, height), "teal"), "JPEG")
    image = images.decode(content, "it", shorter)
    assert min(image.size) >= min(shorter, width, height)
    if min(width, height) >= 2 * shorter + 2:
        assert min(image.size) <= (min(width, height) + 1) // 2
    if min(width, height) < 2 * shorter:
        assert image.size == (width, height)


def test_decoding_at_a_smaller_scale_gives_the_same_image_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = picture(480, 320)
    content = saved(Image.fromarray(pixels), "JPEG", exif=exif)
    small = images.decode(content, "it", 80)
    assert small.size == (80, 120)
    whole = images.decode(content, "it").resize(small.size, Image.Resampling.BOX)
    assert close(np.asarray(small).astype(int), np.asarray(whole), 3)


def test_the_header_describes_the_stored_pixels():
    content = saved(Image.fromarray(picture()).convert("CMYK"), "JPEG")
    assert images.read_header(content, "it") == images.Header("JPEG", "CMYK", "jpeg", 96, 64, 1)


def trap_tiff(tiles, order="<", big=False):
    """A TIFF of tiles of one pixel, all in the same place of the file."""
    kind, entry = ("Q", "HHQQ") if big else ("I", "HHII")
    tags = {256: 1000, 257: tiles // 1000, 258: 8, 259: 1, 262: 1, 277: 1, 322: 1, 323: 1}
    lists = (324, 325)
    start = 16 if big else 8
    places = start + (8 if big else 2) + (len(tags) + 2) * struct.calcsize(order + entry) + 8
    mark = {"<": b"II", ">": b"MM"}[order]
    head = struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    directory = struct.pack(order + ("Q" if big else "H"), len(tags) + 2)
    for tag, value in tags.items():
        directory += struct.pack(order + entry, tag, 16 if big else 4, 1, value)
    for tag in lists:
        directory += struct.pack(order + entry, tag, 16 if big else 4, tiles, places)
    return mark + head + directory + bytes(8) + struct.pack(order + kind, 8) * tiles


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_files_built_to_cost_minutes_or_gigabytes_are_refused_unopened(order, big):
    with pytest.raises(UserError, match="strips or tiles"):
        images.read_header(trap_tiff(200_000, order, big), "it")
    if (order, big) != (">", True):  # which Pillow does not read
        assert images.read_header(trap_tiff(2000, order, big), "it").width == 1000


def test_a_jpeg_of_thousands_of_scans_is_refused():
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    images.decode(content, "it")
    scan = content[content.rindex(b"\xff\xda") : -2]
    with pytest.raises(UserError, match="scans"):
        images.decode(content[:-2] + scan * 5000 + b"\xff\xd9", "it")
    # Hidden behind an end that decoders do not take for one.
    hidden = b"\xff\xe0\0\x06\xff\xd9\xff\xd9" + b"\xff\x02\xff\xff" + b"\xff\xe1\0\0"
    with pytest.raises(UserError, match="scans"):
        images.decode(content[:2] + hidden + content[2:-2] + scan * 5000 + b"\xff\xd9", "it")


def test_data_after_the_end_of_a_jpeg_do_not_count():
    """As phones append videos, whose bytes may look like markers."""
    pixels = picture()
    content = saved(Image.fromarray(pixels), "JPEG")
    film = np.random.default_rng(0).bytes(1_000_000) * 10
    assert film.count(b"\xff\xda") > images.MAX_SCANS
    assert close(decoded(content + film), pixels)


def test_scans_of_large_jpegs_are_counted_fast():
    """Most markers are restarts and stuffed bytes, which are skipped."""
    scan = b"\xff\xda\0\x02" + b"\xff\0\xff\xd0rest" * 1_000_000
    start = time.process_time()
    assert images._scans(b"\xff\xd8" + 101 * b"\xff\xda\0\x02" + scan + b"\xff\xd9") == 102
    many = b"\xff\xe0\0\0" * 2_000_000  # these are, but not all
    assert images._scans(b"\xff\xd8" + 101 * b"\xff\xda\0\x02" + many) == 101
    assert time.process_time() - start < 2


def test_formats_that_start_programs_are_refused():
    with pytest.raises(UserError, match="a PostScript drawing"):
        images.decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "it")


def long_metadata(where):
    """Settings for saving a PNG with metadata of megabytes."""
    text = PngImagePlugin.PngInfo()
    match where:
        case "profile":
            return {"icc_profile": bytes(5_000_000)}
        case "compressed text":
            text.add_text("about", "x" * 5_000_000, zip=True)
        case "text":
            text.add_text("about", "x" * 70_000_000)
        case "XMP":
            text.add_itxt("XML:com.adobe.xmp", "x" * 5_000_000, zip=True)
    return {"pnginfo": text}


@pytest.mark.parametrize(
    ("where", "orientation"),
    [("profile", 1), ("profile", 6), ("compressed text", 6), ("text", 6), ("XMP", 6)],
)
def test_metadata_of_a_png_do_not_cost_the_image(where, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = picture()
    content = saved(Image.fromarray(pixels), "PNG", exif=exif, **long_metadata(where))
    assert np.array_equal(decoded(content), UNTURNED[orientation](pixels))
    assert images.read_header(content, "it").orientation == orientation


def test_metadata_after_the_pixels_and_damaged_ones_do_not_cost_the_image():
    pixels = picture()
    content = saved(Image.fromarray(pixels), "PNG", **long_metadata("compressed text"))
    start = content.index(b"zTXt") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4])
    moved = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    assert np.array_equal(decoded(moved), pixels)
    damaged = bytearray(saved(Image.fromarray(pixels), "PNG", icc_profile=bytes(900)))
    damaged[damaged.index(b"iCCP") + 12] ^= 0xFF  # no longer fits its checksum
    assert np.array_equal(decoded(bytes(damaged)), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "GIF", "AVIF"])
def test_metadata_of_other_formats_do_not_cost_the_image(kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    pixels = picture()
    noise = np.random.default_rng(0).bytes(3_000_000)
    content = saved(
        Image.fromarray(pixels), kind, icc_profile=noise, comment=noise[:9000], xmp=noise[:60_000]
    )
    assert close(decoded(content), pixels)


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBa", "RGBA"])
def test_transparent_pil_images_of_every_mode_are_over_white(mode):
    image = Image.new("LA", (8, 8), (50, 0))
    between = {"La": "La", "PA": "PA", "RGBa": "RGBA"}
    if mode == "PA":
        image = Image.new("PA", (8, 8), (0, 0))
    elif mode != "LA":
        image = image.convert(between.get(mode, "RGBA")).convert(mode)
    assert image.mode == mode
    assert (np.asarray(images.to_rgb(image)) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
def test_opaque_pil_images_of_every_mode(mode):
    if mode == "LAB":
        image = Image.new("LAB", (8, 8), (255, 128, 128))
    elif mode == "RGBX":
        image = Image.new("RGBX", (8, 8), (255, 255, 255, 0))
    else:
        image = Image.new("RGB", (8, 8), "white").convert(mode)
    assert (np.asarray(images.to_rgb(image)) >= 252).all()


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "F"])
def test_an_image_without_pixels_is_refused(size, mode):
    with pytest.raises(ImageError, match=f"no pixels .{size[0]} x {size[1]}.") as caught:
        images.to_rgb(Image.new(mode, size), "images[3]")
    assert "images[3]" in str(caught.value)


def test_cmyk_of_adobe_is_stored_inverted():
    pixels = picture()
    content = saved(Image.fromarray(pixels).convert("CMYK"), "JPEG")  # with Adobe's marker
    assert content.count(b"Adobe\0") == 1
    assert close(decoded(content), pixels)
    assert close(decoded(saved(Image.fromarray(pixels).convert("CMYK"), "TIFF")), pixels)


@pytest.mark.parametrize("mode", ["YCbCr", "LAB"])
def test_tiffs_of_other_colours(mode):
    if mode == "LAB":
        image = ImageCms.profileToProfile(
            Image.fromarray(picture()),
            ImageCms.createProfile("sRGB"),
            ImageCms.createProfile("LAB"),
            outputMode="LAB",
        )
    else:
        image = Image.fromarray(picture()).convert(mode)
    assert close(decoded(saved(image, "TIFF")), picture(), 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_the_first_of_several_images_counts(kind):
    first, second = Image.fromarray(picture()), Image.new("RGB", (96, 64), "black")
    settings = {"WEBP": {"lossless": True}}.get(kind, {})
    content = saved(first, kind, save_all=True, append_images=[second, second], **settings)
    assert close(decoded(content), picture())


def test_a_large_jpeg_differs_little_from_the_same_as_a_pil_image():
    """docs/predict.md says by how much, and why."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (40, 60, 3), np.uint8))
    content = saved(coarse.resize((1200, 800), Image.Resampling.BICUBIC), "JPEG", quality=92)
    small, whole = images.decode(content, "it", 256), images.decode(content, "it")
    assert small.size == (600, 400)
    ours, theirs = (np.asarray(resize_shorter(i, 128, "bilinear"), int) for i in (small, whole))
    difference = np.abs(ours - theirs)
    assert difference.mean() < 1
    assert difference.max() <= 12
