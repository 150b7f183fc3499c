"""The doctor finds every planted fault, names its kind, and finds nothing in a clean folder."""

import json
import os
import struct
import zlib
from pathlib import Path

import markupsafe
import numpy as np
import pytest
from PIL import Image

from resnets.data import folders
from resnets.data.images import ImageError, read_image
from resnets.data.quarantine import read_quarantine
from resnets.doctor import checks
from resnets.doctor import report as reports
from resnets.doctor.report import KINDS, UNREADABLE
from resnets.support.errors import UserError
from tests.conftest import shared_data


def photo(seed, size=(96, 72)):
    """A picture with shapes of its own, as a photograph has."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def clean(tmp_path):
    """Two classes of six and two images each; every image is another one."""
    root = tmp_path / "data"
    seed = 0
    for split, count in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                photo(seed := seed + 1).save(root / split / name / f"{i}.jpg")
    return root


def found(root):
    """(kind, paths) of every finding."""
    return [(f.kind, f.paths) for f in checks.examine(root, threads=2).findings]


def test_a_clean_folder_has_no_findings(clean):
    report = checks.examine(clean, threads=2)
    assert report.findings == []
    assert report.splits == {"train": {"cat": 6, "dog": 6}, "val": {"cat": 2, "dog": 2}}
    assert (report.images, report.facts) == (16, {"JPEG files": 16})
    assert report.bytes == sum(p.stat().st_size for p in clean.rglob("*.jpg"))
    assert report.sizes == (72, 72, 72)


def test_real_photographs_are_clean():
    report = checks.examine(shared_data("ants-bees"))
    assert report.images == 397
    assert report.findings == []


def save(path, content):
    path.write_bytes(content)


def whole(path):
    return (path.parent / "1.jpg").read_bytes()


def bomb():
    def chunk(name, content):
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"")


def flipped_png(path, place):
    photo(90).save(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + place] ^= 0xFF
    path.write_bytes(content)


PLANTED = {  # kind: (file, how to spoil it)
    "empty-file": ("5.jpg", lambda p: save(p, b"")),
    "not-an-image": ("5.jpg", lambda p: p.write_text("<html>404</html>")),
    "unsupported": ("5.jpg", lambda p: save(p, b"\0\0\0\x18ftypheic" + bytes(99))),
    "truncated": ("5.jpg", lambda p: save(p, whole(p)[: len(whole(p)) // 2])),
    "corrupt": ("5.png", lambda p: flipped_png(p, 4)),
    "too-large": ("5.png", lambda p: save(p, bomb())),
    "damaged": ("5.jpg", lambda p: save(p, whole(p)[:-400] + bytes(4000))),
    "blank": ("5.png", lambda p: photo(89).point(lambda v: 100 + v // 40).save(p)),
    "wrong-ending": ("5.png", lambda p: photo(91).save(p, "JPEG")),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_fault_is_found(clean, kind):
    name, spoil = PLANTED[kind]
    spoil(clean / "train/cat" / name)
    assert found(clean) == [(kind, (f"train/cat/{name}",))]


def test_damage_that_decoding_ignores_is_found(clean):
    path = clean / "train/cat/6.png"
    photo(90).save(path)
    content = bytearray(path.read_bytes())
    content[-14] ^= 1  # in the checksum of the pixels
    save(path, content)
    read_image(path)
    assert found(clean) == [("damaged", ("train/cat/6.png",))]


def test_what_a_file_is_and_what_to_do_is_in_the_finding(clean):
    save(clean / "train/cat/5.jpg", b"\0\0\0\x18ftypheic" + bytes(99))
    (finding,) = checks.examine(clean).findings
    assert "a HEIC image" in finding.detail
    assert "convert it to JPEG or PNG" in finding.detail


@pytest.mark.parametrize("size", [(20, 96), (400, 70), (70, 400)])
def test_odd_sizes(clean, size):
    photo(92, size).save(clean / "val/dog/odd.png")
    assert found(clean) == [("odd-size", ("val/dog/odd.png",))]


def altered(image, way, path):
    match way:
        case "copied":
            image.save(path.with_suffix(".png"))
        case "encoded anew":
            image.save(path, quality=40)
        case "smaller":
            image.resize((72, 54), Image.Resampling.LANCZOS).save(path)
        case "larger":
            image.resize((192, 144), Image.Resampling.BICUBIC).save(path)
        case "as webp":
            image.save(path.with_suffix(".webp"), quality=70)


@pytest.mark.parametrize("way", ["copied", "encoded anew", "smaller", "larger", "as webp"])
@pytest.mark.parametrize(
    ("place", "kinds"),
    [
        ("train/cat", ["duplicate"]),
        ("train/dog", ["mislabelled"]),
        ("val/cat", ["leak"]),
        ("val/dog", ["mislabelled", "leak"]),
    ],
)
def test_the_same_image_again(clean, way, place, kinds):
    altered(Image.open(clean / "train/cat/0.jpg"), way, clean / place / "again.jpg")
    (again,) = clean.rglob("again.*")
    paths = tuple(sorted(("train/cat/0.jpg", f"{place}/{again.name}")))
    assert found(clean) == [(kind, paths) for kind in kinds]


def test_the_same_file_thrice_is_one_finding(clean):
    content = (clean / "train/cat/0.jpg").read_bytes()
    for name in ("a", "b"):
        save(clean / f"train/cat/{name}.jpg", content)
    (finding,) = checks.examine(clean).findings
    assert finding.detail == "the same file 3 times in class cat"
    assert len(finding.paths) == 3


def test_other_pictures_of_one_thing_are_not_the_same(clean):
    """Faint, flat and recoloured pictures must not be taken for one another."""
    faint = np.asarray(photo(93)).astype(float) / 40 + 100
    other = np.asarray(photo(94)).astype(float) / 40 + 100
    for name, pixels in (("a", faint), ("b", other), ("c", np.full_like(faint, 30)),
                         ("d", np.full_like(faint, 90))):  # fmt: skip
        Image.fromarray(pixels.astype(np.uint8)).save(clean / f"train/cat/{name}.png")
    recoloured = np.asarray(Image.open(clean / "train/cat/0.jpg"))[..., [2, 1, 0]]
    Image.fromarray(np.ascontiguousarray(recoloured)).save(clean / "train/dog/e.png")
    blank = tuple(f"train/cat/{name}.png" for name in "abcd")
    assert found(clean) == [("blank", blank)]


def test_many_equal_images_are_compared_in_bounded_time(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(150):
            Image.new("L", (40, 40), 7).save(tmp_path / name / f"{i}.png")
    assert [f.kind for f in checks.examine(tmp_path).findings] == ["blank", "mislabelled"]


def test_classes(clean):
    (clean / "train/empty").mkdir()
    for split, name in (("train", "owl"), ("val", "yak")):
        (clean / split / name).mkdir()
        photo(95 + len(name + split)).save(clean / split / name / "1.jpg")
    assert found(clean) == [
        ("unknown-class", ("val/yak",)),
        ("empty-class", ("empty",)),
        ("missing-in-val", ("train/owl",)),
    ]


def test_imbalance(clean):
    for i in range(60):
        photo(200 + i).save(clean / "train/dog" / f"more{i}.jpg")
    (finding,) = checks.examine(clean).findings
    assert finding.kind == "imbalance"
    assert "dog has 66 images, cat 6: 11 times as many" in finding.detail


def test_layouts_that_cannot_be_trained_on(tmp_path):
    assert found(tmp_path) == [("layout", ())]
    (tmp_path / "cat").mkdir()
    photo(1).save(tmp_path / "cat/1.jpg")
    (finding,) = checks.examine(tmp_path).findings
    assert (finding.kind, "only one class, cat" in finding.detail) == ("layout", True)
    photo(2).save(tmp_path / "cat/2.jpg")
    (tmp_path / "dog").mkdir()
    (tmp_path / "cat/1.jpg").rename(tmp_path / "dog/1.jpg")
    (finding,) = checks.examine(tmp_path).findings
    assert (finding.kind, "no class has two images" in finding.detail) == ("layout", True)
    with pytest.raises(UserError, match="no class has two images"):
        folders.load(tmp_path)


def test_excluded_files_are_counted_by_reason(clean):
    (clean / "train/cat/.ipynb_checkpoints").mkdir()
    (clean / "train/cat/._0.jpg").write_text("")
    (clean / "train/cat/notes.txt").write_text("")
    (clean / "train/dog/noending").write_text("")
    photo(97).save(clean / "train/loose.jpg")
    report = checks.examine(clean)
    assert report.ignored == {
        "hidden": 2,
        "not an image by its ending (.txt)": 1,
        "not an image by its ending (no ending)": 1,
    }
    assert [(f.kind, f.paths) for f in report.findings] == [("unlabelled", ("train/loose.jpg",))]


def test_links(clean):
    try:
        (clean / "train/cat/gone.jpg").symlink_to(clean / "nowhere.jpg")
        (clean / "train/cat/loop").symlink_to(clean / "train/cat")
    except OSError:
        pytest.skip("no links here")
    report = checks.examine(clean)
    assert [(f.kind, f.paths) for f in report.findings] == [("unreadable", ("train/cat/gone.jpg",))]
    assert report.ignored == {"a link back to a folder above it": 1}


def test_a_flat_val_with_its_label_file(clean):
    for name in ("cat", "dog"):
        for path in list((clean / "val" / name).iterdir()):
            path.rename(clean / "val" / f"{name}{path.name}")
        (clean / "val" / name).rmdir()
    listing = clean / "val/val_map.txt"
    listing.write_text("cat0.jpg cat\ncat1.jpg cat\ndog0.jpg dog\ndog9.jpg dog\n")
    assert found(clean) == [("label-file", ("val/dog9.jpg",)), ("unlabelled", ("val/dog1.jpg",))]
    listing.write_text("cat0.jpg cat\ncat1.jpg\n")
    assert found(clean) == [("label-file", ("val/val_map.txt",))]


def test_numbered_images(tmp_path):
    photo(1).save(tmp_path / "x.png")
    (tmp_path / "labels.tsv").write_text("file\tclass_index\nx.png\t985\ny.png\t3\n")
    assert found(tmp_path) == [("label-file", ("y.png",))]


def test_facts(clean):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(98).save(clean / "train/cat/turned.jpg", exif=exif)
    photo(99).convert("CMYK").save(clean / "train/cat/ink.jpg")
    photo(100).convert("L").save(clean / "train/cat/grey.jpg")
    wide = np.asarray(photo(101).convert("L")).astype(np.uint16) * 257
    Image.fromarray(wide).save(clean / "train/cat/wide.png")
    report = checks.examine(clean)
    assert report.findings == []
    assert report.facts == {
        "JPEG files": 19, "PNG files": 1, "turned by EXIF data": 1, "CMYK": 1, "greyscale": 1,
        "16-bit greyscale": 1,
    }  # fmt: skip


def test_progress_ends_at_the_total(clean):
    seen = []
    checks.examine(clean, 2, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (16, 16)


def test_the_number_of_threads_changes_nothing(clean):
    plant_all(clean)
    one, four = checks.examine(clean, 1), checks.examine(clean, 4)
    assert one.findings == four.findings


def plant_all(root):
    for i, (name, spoil) in enumerate(PLANTED.values()):
        path = root / "train/cat" / name
        spoil(path)
        path.rename(path.with_stem(f"bad{i}"))
    photo(102).save(root / "train/cat/5.jpg")


def test_quarantine_lists_unreadable_files_and_folders_apply_it(clean):
    plant_all(clean)
    report = checks.examine(clean)
    expected = sorted(p for f in report.findings if f.kind in UNREADABLE for p in f.paths)
    assert len(expected) == 6
    before = sorted(clean.rglob("*"))
    assert checks.quarantine(report, clean / ".quarantine") == 6
    assert sorted(clean.rglob("*")) == sorted([*before, clean / ".quarantine"])
    assert read_quarantine(clean) == expected
    train = folders.load(clean).train
    names = {train.name(i) for i in range(len(train))}
    assert not names & {p.removeprefix("train/") for p in expected}
    again = checks.examine(clean)
    assert again.count("error") == 0
    assert again.ignored["in quarantine"] == 6
    checks.quarantine(again, clean / ".quarantine")  # adds; it does not forget
    assert read_quarantine(clean) == expected


def test_json(clean):
    plant_all(clean)
    facts = json.loads(json.dumps(reports.to_json(checks.examine(clean))))
    assert facts["format"] == 1
    assert facts["errors"] == 6
    assert facts["splits"]["val"] == {"cat": 2, "dog": 2}
    assert set(facts["shorter_side"]) == {"least", "median", "most"}
    for finding in facts["findings"]:
        assert set(finding) == {"kind", "severity", "detail", "paths"}
        assert finding["severity"] == KINDS[finding["kind"]][0]
    order = [list(KINDS).index(f["kind"]) for f in facts["findings"]]
    assert order == sorted(order)


def test_the_page_escapes_names_and_shows_pictures(clean):
    evil = "<script>alert('x')&amp;.jpg"
    (clean / "train/dog" / evil).write_bytes((clean / "train/cat/0.jpg").read_bytes())
    odd = "\udcff.jpg"
    try:
        (clean / "train/dog" / odd).write_bytes(b"")
    except OSError:
        (clean / "train/dog/odd.jpg").write_bytes(b"")
    report = checks.examine(clean)
    page = reports.to_html(report)
    page.encode()
    assert "<script>" not in page
    assert str(markupsafe.escape(evil)) in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")
    reports.to_text(report).encode()


def test_the_page_stays_small(clean, monkeypatch):
    monkeypatch.setattr(reports, "PAGE_FINDINGS", 3)
    for i in range(8):
        (clean / f"train/cat/x{i}.jpg").write_bytes(b"")
    report = checks.examine(clean)
    page = reports.to_html(report)
    assert page.count('class="found"') == 3
    assert "and 5 more findings of this kind" in page
    monkeypatch.setattr(reports, "TEXT_LINES", 2)
    assert "... and 6 more" in reports.to_text(report)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        checks.examine(tmp_path / "absent")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everything can be read here")
def test_an_unreadable_folder_is_a_finding(clean):
    (clean / "train/cat").chmod(0)
    kinds = [kind for kind, _ in found(clean)]
    (clean / "train/cat").chmod(0o755)
    assert "unreadable" in kinds


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everything can be read here")
@pytest.mark.parametrize("label_file", ["val/val_map.txt", "val_map.txt"])
def test_an_unreadable_val_is_a_finding(clean, label_file):
    (clean / label_file).write_text("x.jpg cat")
    (clean / "val").chmod(0)
    kinds = [kind for kind, _ in found(clean)]
    (clean / "val").chmod(0o755)
    assert "unreadable" in kinds


def test_an_unreadable_quarantine_is_a_finding(clean):
    (clean / ".quarantine").mkdir()
    assert found(clean) == [("quarantine", (".quarantine",))]
    (clean / ".quarantine").rmdir()
    (clean / ".quarantine").write_text("train/cat/0.jpg\n", "utf-16")
    report = checks.examine(clean)
    (finding,) = report.findings
    assert (finding.kind, "save it as UTF-8" in finding.detail) == ("quarantine", True)
    assert not report.unreadable_files


@pytest.mark.parametrize("name", ["val/val_map.txt", "labels.tsv"])
def test_an_unreadable_label_file_is_a_finding(clean, monkeypatch, name):
    (clean / "val/x.jpg").write_bytes(b"")
    (clean / name).touch()

    real = Path.open

    def refuse(path, *args, **options):
        if path == clean / name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert ("label-file", (name,)) in found(clean)
    with pytest.raises(UserError, match=rf"{name}: cannot be read \(permission denied\)"):
        folders.load_test(clean)


def test_a_fault_is_of_the_kind_that_the_error_names(clean, monkeypatch):
    def fail(content, name, shorter):
        raise ImageError("too-large", "truncated: not an image")

    monkeypatch.setattr(checks, "decode", fail)
    assert {kind for kind, _ in found(clean)} == {"too-large"}
