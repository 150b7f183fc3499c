"""Files are known by their ending or first bytes, and what is not read is named."""

import io
import os
import tarfile
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from resnets.data import folders, image_formats, images
from resnets.data.image_formats import ENDINGS, EXTENSIONS
from resnets.data.images import ImageError

# The package silences these; pytest makes its own list of filters.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def content(kind="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "teal").save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name",
    ["a.jfif", "a.jpe", "a.JPG", "a.mpo", "a.apng", "a.dib", "a.jp2", "a.jpg_large", "a.jpg!d",
     "a", "a.dat", "a.jpg:large", "a.php?id=3", "0.5", "a.heic"],
)  # fmt: skip
def test_what_can_be_decoded_is_taken_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(content())
    assert images.is_candidate(tmp_path / name)
    assert images.is_candidate(str(tmp_path / name))
    assert images.read_image(tmp_path / name).size == (40, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_each_format_is_known_by_its_first_bytes(tmp_path, kind):
    assert image_formats.identify(content(kind)) == image_formats.Kind(kind, readable=True)
    (tmp_path / "it").write_bytes(content(kind))
    assert images.is_candidate(tmp_path / "it")


def test_what_is_no_image_is_not_taken(tmp_path):
    contents = {
        "notes": b"P1 cat\nP2 dog\n",
        "a.heic": b"\0\0\0\x18ftypheic" + bytes(9),
        "a.mp4": b"\0\0\0\x18ftypisom" + bytes(99),
        "empty": b"",
    }
    for name, text in contents.items():
        (tmp_path / name).write_bytes(text)
        assert not images.is_candidate(tmp_path / name)
    assert not images.is_candidate(tmp_path / "absent")
    assert not images.is_candidate(tmp_path)
    assert not images.is_candidate("a\0b")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert not images.is_candidate(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["1.jpg", "1.JFIF", "labels.txt", "annotation.xml"])
def test_usual_files_are_not_opened(monkeypatch, name):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr("os.path.isfile", fail)
    assert images.is_candidate(name) == name.startswith("1")


def test_half_downloaded_files_are_left_out(tmp_path):
    (tmp_path / "a.jpg.part").write_bytes(content()[:200])
    assert not images.is_candidate(tmp_path / "a.jpg.part")


def test_endings_and_formats_belong_together():
    assert not EXTENSIONS & image_formats.OTHER_ENDINGS
    assert {*images.FORMATS, "MPO"} == set(ENDINGS)
    assert all(images.has_image_ending(f"A{ending.upper()}") for ending in EXTENSIONS)


def test_a_class_folder_may_hold_files_of_any_name(tmp_path):
    for name in ("cat/1.jfif", "cat/2", "dog/3.jpg!d", "dog/notes.txt", "dog/4.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content() if "notes" not in name else b"words")
    samples = folders.load_test(tmp_path)
    assert [samples.name(i) for i in range(len(samples))] == [
        "cat/1.jfif", "cat/2", "dog/3.jpg!d", "dog/4.bin",
    ]  # fmt: skip


def boxes(brand):
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + brand + b"mif1" + bytes(99)


def tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.jpg"))
    return buffer.getvalue()


def pictures(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "teal").save(buffer, kind)
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
DNG = b"II*\0\x08\0\0\0\x01\0\x12\xc6\x01\0\x04\0\0\0\x01\x04\0\0" + bytes(300)
NEF = (
    b"MM\0*\0\0\0\x08\0\x02\0\xfe\0\x04\0\0\0\x01\0\0\0\x01\x01\x4a\0\x04\0\0\0\x01\0\0\0\x90"
    + bytes(300)
)
NOT_READ = {  # what the message says: content
    "HEIC": boxes(b"heic"),
    "JPEG XL": b"\xff\x0a" + bytes(99),
    "JPEG XL ": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99),
    "RAW": b"II*\0\x10\0\0\0CR\x02\0" + bytes(99),
    "RAW ": DNG,
    "RAW  ": NEF,
    "RAW   ": b"FUJIFILMCCD-RAW 0201" + bytes(99),
    "Photoshop": b"8BPS\0\1" + bytes(99),
    "DICOM": bytes(128) + b"DICM" + bytes(99),
    "an icon": pictures("ICO"),
    "TGA": pictures("TGA"),
    "SVG": b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg width="9"></svg>',
    "SVG ": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "FITS": b"SIMPLE  =                    T" + bytes(99),
    "QOI": b"qoif" + bytes(99),
    "DDS": b"DDS |" + bytes(99),
    "PCX": pictures("PCX"),
    "PFM": b"PF\n9 9\n-1.0\n" + bytes(999),
}
NO_IMAGES = {
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3",
    "a web page": b"\n<!DOCTYPE html><html><title>404</title>",
    "a web page ": b"<HTML><body>Forbidden",
    "an XML file": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "a Git LFS pointer": LFS,
    "a git-annex pointer": b"/annex/objects/SHA256E-s31--4d7a.jpg\n",
    "a ZIP archive": b"PK\3\4" + bytes(99),
    "a compressed file": b"\x1f\x8b\x08" + bytes(99),
    "an archive": tar(),
    "a video": boxes(b"isom").replace(b"mif1", b"mp42"),
    "a video ": b"\x1a\x45\xdf\xa3" + bytes(99),
    "a sound file": b"ID3\3" + bytes(99),
    "AppleDouble": b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(99),
    "zero bytes": bytes(5000),
    'a text file that begins "Too many requests"': b"Too many requests\n",
    "not an image of a known format": bytes(range(5, 250)),
}


@pytest.mark.parametrize("name", ["it.jpg", "it.png", ""])
@pytest.mark.parametrize("what", [*NOT_READ, *NO_IMAGES])
def test_a_file_that_is_not_read_is_named_with_what_to_do(what, name):
    with pytest.raises(ImageError, match=what.strip()) as caught:
        images.decode((NOT_READ | NO_IMAGES)[what], name)
    assert caught.value.kind == ("unsupported" if what in NOT_READ else "not-an-image")
    assert caught.value.hint or "known format" in what
    with pytest.raises(ImageError, match=what.strip()):
        images.read_header((NOT_READ | NO_IMAGES)[what], name)


def test_the_hint_of_a_pointer_is_the_command_that_gets_the_image():
    with pytest.raises(ImageError, match="git lfs pull"):
        images.decode(LFS, "it.jpg")
    assert image_formats.is_lfs_pointer(LFS)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "WEBP"])
def test_formats_that_this_pillow_lacks_are_named(kind, monkeypatch):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    found = content(kind)
    images._formats.cache_clear()
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(ImageError, match=f"{kind}, which this Pillow lacks") as caught:
        images.decode(found, "it")
    images._formats.cache_clear()
    assert (caught.value.kind, caught.value.hint) == ("unsupported", "pip install -U pillow")


def test_damaged_files_of_known_formats_are_not_taken_for_other_files():
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP"):
        with pytest.raises(ImageError, match="cannot be read") as caught:
            images.decode(content(kind)[:20], "it")
        assert caught.value.kind in ("truncated", "corrupt")


@given(st.binary(max_size=700))
def test_any_bytes_are_some_kind_or_none(noise):
    kind = image_formats.identify(noise)
    assert kind is None or (kind.readable and kind.name in ENDINGS) or kind.hint


@pytest.mark.parametrize(
    "start", [b"\0\0\0\x18ftyp", b"<?xml ", b"<!-- ", b"P1 ", b"\0\0\1\0", b" "]
)
def test_no_pattern_takes_long(start):
    began = time.process_time()
    for filling in (b"a", b" ", b"avi", b"9 ", b"<", b"-->", b"\n"):
        image_formats.identify(start + filling * 100_000)
    assert time.process_time() - began < 0.5


def test_the_reason_of_an_error_has_the_hint_and_not_the_place():
    with pytest.raises(ImageError) as caught:
        images.decode(boxes(b"heic"), "it.jpg")
    assert caught.value.reason.endswith("a HEIC image; convert it to JPEG or PNG")
    assert str(caught.value) == f"it.jpg: {caught.value.reason}"
