"""Grey pixels of more than 8 bits keep their brightness by one rule, from files and PIL images."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnets.data import images
from resnets.data.images import ImageError

GREY = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
"""All values of 8 bits."""
UNSIGNED, SIGNED, FRACTION = 1, 2, 3


def tiff(pixels, sample_format=UNSIGNED, min_is_white=False, bits=None, packed=None):
    """An uncompressed grey TIFF, as a file."""
    content = pixels.tobytes() if packed is None else packed
    bits = bits or pixels.dtype.itemsize * 8
    height, width = pixels.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 0 if min_is_white else 1, 273: 8,
            277: 1, 278: height, 279: len(content), 339: sample_format}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory


def saved(image, kind, **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def grey(content):
    """The decoded pixels, of which all channels are equal."""
    pixels = np.asarray(images.decode(content, "it"))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def scaled(factor, dtype):
    return (GREY.astype(np.float64) * factor).astype(dtype)


TWELVE = np.round(GREY * (4095 / 255)).astype(np.uint16)
PACKED = np.unpackbits(TWELVE.astype(">u2").view(np.uint8).reshape(16, 256, 2), axis=2)[..., 4:]
FILES = {
    "fractions 0..1": tiff(scaled(1 / 255, np.float32), FRACTION),
    "fractions 0..255": tiff(scaled(1, np.float32), FRACTION),
    "fractions 0..65535": tiff(scaled(257, np.float32), FRACTION),
    "int32 0..255": tiff(scaled(1, np.int32), SIGNED),
    "uint32 0..255": tiff(scaled(1, np.uint32)),
    "uint32 to its end": tiff(scaled((2**32 - 1) / 255, np.uint32)),
    "uint16": tiff(scaled(257, np.uint16)),
    "uint16 0..255": tiff(scaled(1, np.uint16)),
    "12 bits in 16": tiff(TWELVE),
    "12 bits packed": tiff(TWELVE, bits=12, packed=np.packbits(PACKED.reshape(-1)).tobytes()),
    "signed 16 bits": tiff((scaled(257, np.int64) - 2**15).astype(np.int16), SIGNED),
    "CT in Hounsfield units": tiff((TWELVE.astype(np.int16) - 1024), SIGNED),
    "signed bytes": tiff((GREY.astype(np.int16) - 128).astype(np.int8), SIGNED),
    "fractions -1..1": tiff((scaled(2 / 255, np.float32) - 1).astype(np.float32), FRACTION),
    "uint16, white is 0": tiff(scaled(257, np.uint16)[:, ::-1].copy(), min_is_white=True),
    "fractions, white is 0": tiff(
        scaled(1 / 255, np.float32)[:, ::-1].copy(), FRACTION, min_is_white=True
    ),
    "PNG": saved(Image.fromarray(scaled(257, np.uint16)), "PNG"),
    "PNG of 12 bits": saved(Image.fromarray(TWELVE), "PNG"),
    "PGM": b"P5 256 16 65535\n" + scaled(257, ">u2").tobytes(),
    "PGM of 12 bits": b"P5 256 16 4095\n" + TWELVE.astype(">u2").tobytes(),
    "PGM of 12 bits in 16": b"P5 256 16 65535\n" + TWELVE.astype(">u2").tobytes(),
    "PFM": b"Pf\n256 16\n-1.0\n" + scaled(1 / 255, "<f4")[::-1].tobytes(),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_grey_looks_the_same(kind):
    found = grey(FILES[kind]).astype(int)
    assert np.abs(found - GREY).max() <= 1
    if "12" not in kind and "CT" not in kind:
        assert np.array_equal(found, GREY)


def test_different_files_do_not_become_one():
    dark, light = scaled(1 / 255, np.float32) / 2, scaled(1 / 255, np.float32)
    assert not np.array_equal(grey(tiff(dark, FRACTION)), grey(tiff(light, FRACTION)))


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_a_pil_image_and_its_file_give_the_same(mode):
    dtype = {"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]
    image = Image.fromarray(scaled(3, dtype))
    assert image.mode == mode
    from_file = images.decode(saved(image, "TIFF"), "it")
    assert np.array_equal(np.asarray(images.to_rgb(image)), np.asarray(from_file))


@given(st.integers(1, 65535), st.floats(0.0, 1.0))
def test_no_image_becomes_darker_than_half_its_brightness(brightest, share):
    values = np.array([[0, round(share * brightest), brightest]], np.uint16)
    found = grey(saved(Image.fromarray(values), "PNG"))
    assert found[0, 2] >= 127 or brightest < 128
    assert found[0, 0] <= found[0, 1] <= found[0, 2]


def test_slight_overshoot_of_fractions_is_clipped():
    values = scaled(1 / 255, np.float32)
    values[0, 0] = 1.02
    assert np.array_equal(grey(tiff(values, FRACTION))[1:], GREY[1:])


def test_what_is_no_number_is_black_and_does_not_spoil_the_rest():
    values = scaled(1 / 255, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    assert np.array_equal(grey(tiff(values, FRACTION))[0, :3], [0, 255, 0])
    assert np.array_equal(grey(tiff(values, FRACTION))[1:], GREY[1:])
    with pytest.raises(ImageError, match="finite") as caught:
        images.decode(tiff(np.full((4, 4), np.nan, np.float32), FRACTION), "it")
    assert caught.value.kind == "corrupt"


@pytest.mark.parametrize("value", [-5, 0, 7, 3e38, -3e38, 1e-40])
def test_constant_and_extreme_images_are_no_error(value):
    with np.errstate(all="raise"):
        assert np.ptp(grey(tiff(np.full((4, 4), value, np.float32), FRACTION))) == 0
        extremes = np.array([[-3e38, 0, 3e38]], np.float32)
        assert grey(tiff(extremes, FRACTION)).tolist() == [[0, 128, 255]]


def test_transparent_grey_of_16_bits_is_white():
    values = scaled(257, np.uint16)
    content = saved(Image.fromarray(values), "PNG", transparency=10 * 257)
    expected = np.where(GREY == 10, 255, GREY)
    assert np.array_equal(grey(content), expected)


def test_a_turned_image_is_scaled_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(Image.fromarray(scaled(257, np.uint16)), "PNG", exif=exif)
    assert np.array_equal(grey(content), np.rot90(GREY, -1))


def test_scaling_takes_little_memory():
    image = Image.fromarray(np.zeros((2000, 2000), np.float32))
    tracemalloc.start()
    images.to_rgb(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15 * 4_000_000  # bytes for a pixel


def tiff_of(samples, bits, **more):
    """The head of an uncompressed TIFF of several numbers for a pixel; without pixels."""
    tags = {256: 8, 257: 8, 258: bits, 259: 1, 262: 2, 273: 8, 277: samples, 278: 8, 279: 800}
    tags |= {int(key[1:]): value for key, value in more.items()}
    entries = b"".join(struct.pack("<HHII", t, 4, 1, tags[t]) for t in sorted(tags))
    pixels = bytes(800)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (tiff(GREY.astype(np.float64), FRACTION), "1 floating-point number of 64 bits"),
        (tiff(GREY.astype(np.float16), FRACTION), "1 floating-point number of 16 bits"),
        (tiff_of(3, 32, t339=3), "3 floating-point numbers of 32 bits"),
        (tiff_of(5, 8, t262=1), "5 unsigned numbers of 8 bits"),
        (tiff_of(3, 16, t284=2), "separate planes"),
        (tiff_of(3, 8, t262=6, t530=2), "subsampled"),
        (tiff_of(3, 8, t259=50002), "compression 50002"),
    ],
)
def test_a_tiff_that_would_be_misread_is_refused_by_name(content, what):
    with pytest.raises(ImageError, match=what) as caught:
        images.decode(content, "it")
    assert caught.value.kind == "unsupported"
    assert caught.value.hint == "convert it to JPEG or PNG"
