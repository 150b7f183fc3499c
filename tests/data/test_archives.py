"""Data sets in one file are unpacked once, whole or not at all."""

import io
import os
import re
import tarfile
import zipfile

import pytest

from resnets.data import archives, datasets
from resnets.doctor import checks
from resnets.inference.image_inputs import find_images
from resnets.support.errors import UserError
from tests.conftest import draw_photos


@pytest.fixture
def photos(tmp_path):
    for part in ("train", "val"):
        draw_photos(tmp_path / "photos" / part, {"ant": 3, "bee": 2})
    return tmp_path / "photos"


def make(photos, ending, around):
    archive = photos.parent / f"insects{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in photos.rglob("*.png"):
                file.write(path, f"{around}{path.relative_to(photos)}")
    else:
        with tarfile.open(archive, "w:gz" if ending != ".tar" else "w") as file:
            for part in ("train", "val"):
                file.add(photos / part, f"{around}{part}")
    return archive


@pytest.mark.parametrize("around", ["", "insects/"])
@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".zip"])
def test_an_archive_is_opened_like_its_folder(photos, cache, ending, around):
    archive = make(photos, ending, around)
    found = datasets.open_training(str(archive))
    assert (len(found.train), len(found.val)) == (5, 5)
    assert found.classes == ("ant", "bee")
    assert len(datasets.open_test(str(archive))) == 5
    assert str(cache) in found.train.location
    assert not list(photos.parent.glob("**/.unpacking-*"))


def test_an_archive_is_unpacked_once_and_again_after_a_change(photos, cache):
    archive = make(photos, ".tar", "")
    first = archives.unpacked(archive)
    (first / "train" / "ant" / "0.png").unlink()
    assert len(datasets.open_training(str(archive)).train) == 4
    draw_photos(photos / "train", {"ant": 9})
    assert len(datasets.open_training(str(make(photos, ".tar", ""))).train) == 11


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".zip"])
def test_damaged_archives_leave_nothing(photos, cache, ending):
    archive = make(photos, ending, "")
    archive.write_bytes(archive.read_bytes()[:-2000] if ending == ".zip" else b"nothing" * 500)
    with pytest.raises(UserError, match="cannot be unpacked"):
        archives.unpacked(archive)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.name != ".lock"]


def test_members_that_lead_outside_are_refused(tmp_path, cache):
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as file:
        member = tarfile.TarInfo("../../evil.png")
        member.size = 3
        file.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(UserError, match="cannot be unpacked"):
        archives.unpacked(archive)
    assert not list(cache.rglob("evil.png"))


def test_members_of_a_zip_that_lead_outside_are_refused(tmp_path, cache):
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../evil.png", b"abc")
    with pytest.raises(UserError, match="cannot be unpacked"):
        archives.unpacked(archive)
    assert not list(cache.rglob("evil.png"))


def test_dots_in_names_are_kept(photos, cache):
    (photos / "train" / "ant" / "0.png").rename(photos / "train" / "ant" / "a..b.png")
    assert len(datasets.open_training(str(make(photos, ".zip", ""))).train) == 5


def damage_header(content):
    """Spoil the header of a member in the middle of a tar."""
    place = content.index(b"././@PaxHeader", len(content) // 2)
    return content[:place] + b"?" * 512 + content[place + 512 :]


def damage_end(content):
    """Spoil the checksum of a gzip file."""
    return content[:-8] + b"\xff" * 8


@pytest.mark.parametrize(("ending", "damage"), [(".tar", damage_header), (".tgz", damage_end)])
def test_damage_after_the_first_members_is_noticed(photos, cache, ending, damage):
    archive = make(photos, ending, "")
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(UserError, match=r"insects.*cannot be unpacked"):
        archives.unpacked(archive)
    assert not list(cache.rglob("*.png"))


def test_zips_with_a_password_are_refused(photos, cache):
    archive = make(photos, ".zip", "")
    content = bytearray(archive.read_bytes())
    entry = content.index(b"PK\1\2")
    content[entry + 8] |= 1  # the flag of encryption
    content[6] |= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match="password"):
        archives.unpacked(archive)


def test_hidden_archives_and_leftovers_of_a_killed_process(photos, cache):
    archive = make(photos, ".tar", "").rename(photos.parent / ".insects.tar")
    first = archives.unpacked(archive)
    assert len(datasets.open_training(str(archive)).train) == 5
    assert first.stat().st_mode & 0o777 == photos.stat().st_mode & 0o777  # others may read
    home = first.parent
    first.rename(home / ".unpacking")
    assert archives.unpacked(archive) == first
    assert not (home / ".unpacking").exists()


@pytest.mark.parametrize("ending", [".tar", ".zip"])
def test_what_macos_and_authors_put_around_the_data_is_stepped_over(photos, cache, ending):
    archive = make(photos, ending, "data set/photos/")
    noise = {"__MACOSX/data set/._x.png": b"", "data set/README.md": b"hello"}
    if ending == ".zip":
        with zipfile.ZipFile(archive, "a") as file:
            for name, content in noise.items():
                file.writestr(name, content)
    else:
        with tarfile.open(archive, "a") as file:
            for name, content in noise.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    found = datasets.open_training(str(archive))
    assert (len(found.train), len(found.val), found.classes) == (5, 5, ("ant", "bee"))
    assert len(find_images([str(archive)])) == 10


def test_another_archive_of_the_same_size_and_date_is_seen(photos, cache):
    archive = make(photos, ".tar", "")
    state = archive.stat()
    assert datasets.open_training(str(archive)).classes == ("ant", "bee")
    for part in ("train", "val"):
        (photos / part / "ant").rename(photos / part / "cow")
    other = make(photos, ".tar", "")
    assert other.stat().st_size == state.st_size
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert datasets.open_training(str(other)).classes == ("bee", "cow")


def pack(path, *members, content=b"abc"):
    """Write an archive of members: names of files, or `TarInfo` of other kinds."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for name in members:
                zipped.writestr(name, content)
        return path
    with tarfile.open(path, "w") as file:
        for member in members:
            if isinstance(member, str):
                member = tarfile.TarInfo(member)
                member.size = len(content)
            file.addfile(member, io.BytesIO(content) if member.size else None)
    return path


def special(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    ("ending", "members", "message"),
    [
        (".tar", ["/tmp/x.png"], r"x.tar: .* member /tmp/x.png leads out of the archive's folder"),
        (".zip", ["/tmp/x.png"], r"x.zip: .* member /tmp/x.png leads out"),
        (".zip", ["C:\\x.png"], r"member C:/x.png leads out"),
        (".zip", ["..\\x.png"], r"member \.\./x.png leads out"),
        (".tar", [special("a/x.png", tarfile.FIFOTYPE)], "a/x.png is a device or a pipe; pack"),
        (".tar", [special("a/x.png", tarfile.SYMTYPE, "/etc/passwd")], "link out.*--dereference"),
        (".tar", [special("a/x.png", tarfile.LNKTYPE, "a/none.png")], "'a/none.png' not found"),
        (".zip", ["a", "a/x.png"], r"x.zip: .* member a/?\S* is both a file and a folder"),
        (".zip", [f"a/{'x' * 300}.png"], r"x.zip: .* member a/xxx\S*\.\.\. has too long a name"),
    ],
)
def test_members_that_cannot_be_unpacked_are_named(tmp_path, cache, ending, members, message):
    with pytest.raises(UserError, match=message):
        archives.unpacked(pack(tmp_path / f"x{ending}", *members))
    assert not list(cache.rglob("*.png"))


def test_backslashes_in_a_zip_separate_folders(tmp_path, cache):
    folder = archives.unpacked(pack(tmp_path / "x.zip", "a\\1.png", "b\\2.png"))
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png")) == [
        "a/1.png",
        "b/2.png",
    ]


def test_archives_of_another_kind_say_what_they_are(tmp_path, cache):
    for name, message in (("x.zip", "is empty"), ("x.tar", "is empty"), ("x.tgz", "is empty")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(UserError, match=message):
            archives.unpacked(tmp_path / name)
    tar = pack(tmp_path / "a.tar", "a/1.png").rename(tmp_path / "a.zip")
    with pytest.raises(UserError, match=r"is a tar, not a zip; let its name end in \.tar"):
        archives.unpacked(tar)
    zipped = pack(tmp_path / "b.zip", "a/1.png").rename(tmp_path / "b.tar.gz")
    with pytest.raises(UserError, match=r"is a zip, not a tar; let its name end in \.zip"):
        archives.unpacked(zipped)
    (tmp_path / "c.7z").write_bytes(b"7z")
    with pytest.raises(UserError, match=r"of an unsupported kind; unpack.* \.tar\.gz, "):
        datasets.local(str(tmp_path / "c.7z"))


def again(path, first, second, name="d/ants/1.png"):
    """An archive with two members of one name."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr(name, first)
            with pytest.warns(UserWarning, match="Duplicate"):
                zipped.writestr(name, second)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as file:
        for content in (first, second):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
        file.addfile(special("d/bees", tarfile.DIRTYPE))
    return path


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tgz"])
@pytest.mark.parametrize("second", [b"other", b"first and more", b"fir", b""])
def test_two_contents_of_one_name_are_refused(tmp_path, cache, ending, second):
    archive = again(tmp_path / f"x{ending}", b"first", second)
    message = r"member d/ants/1\.png is there twice, with different contents; pack"
    with pytest.raises(UserError, match=message):
        archives.unpacked(archive)
    assert not list(cache.rglob("*.png"))


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tgz"])
def test_the_same_file_twice_is_one_file(tmp_path, cache, ending):
    content = bytes(range(256)) * 9_000
    folder = archives.unpacked(again(tmp_path / f"x{ending}", content, content))
    assert [path.read_bytes() for path in folder.rglob("*.png")] == [content]


def test_links_twice_in_a_tar(tmp_path, cache):
    def link(target, kind=tarfile.SYMTYPE):
        return special("d/2.png", kind, target)

    hard = special("d/1.png", tarfile.LNKTYPE, "d/1.png")  # what tar writes for a file given twice
    folder = archives.unpacked(
        pack(tmp_path / "x.tar", "d/1.png", hard, link("1.png"), link("1.png"), "d/0.png")
    )
    assert sorted(path.name for path in folder.rglob("*.png")) == ["0.png", "1.png", "2.png"]
    with pytest.raises(UserError, match=r"d/2\.png is there twice"):
        archives.unpacked(pack(tmp_path / "y.tar", "d/1.png", link("1.png"), link("0.png")))


def test_names_in_an_archive_that_look_alike_are_those_of_folders(tmp_path, cache):
    names = [f"{name}/{i}.png" for name in ("cat", "Cat", "dog") for i in range(2)]
    archive = pack(tmp_path / "x.zip", *names, "dog/A.png", "dog/a.png")
    if len(list(archives.unpacked(archive).iterdir())) < 3:
        pytest.skip("this file system has no such names")
    found = datasets.open_training(str(archive))
    assert (found.classes, len(found.train) + len(found.val)) == (("Cat", "cat", "dog"), 8)
    assert any("differ in nothing but letter case" in line for line in found.notes)


def test_two_data_sets_in_one_archive_are_refused(tmp_path, cache):
    names = [f"{top}/{name}/{i}.png" for top in ("nest", "sysf") for name in "ab" for i in "01"]
    for open_data in (datasets.open_training, datasets.open_test):
        with pytest.raises(UserError, match="nest, sysf hold the same folders, a, b: either"):
            open_data(str(pack(tmp_path / "x.tar", *names)))


@pytest.mark.parametrize("names", [["a.tgz"], ["a.zip", "b.tar.gz"]])
def test_archives_in_a_folder_are_pointed_at(tmp_path, cache, names):
    root = tmp_path / "two"
    root.mkdir()
    for name in (*names, ".hidden.zip", "README.md"):
        (root / name).write_bytes(b"x")
    hint = f"did you mean {root / names[0]}?" if len(names) == 1 else "them: a.zip, b.tar.gz"
    openers = [datasets.open_training, datasets.open_test, datasets.open_box_splits]
    for opener in (*openers, lambda name: find_images([name])):
        with pytest.raises(UserError, match=re.escape(hint)):
            opener(str(root))
    assert any(hint in f.detail for f in checks.examine(root, threads=1).findings)


def test_a_tar_of_class_folders_in_a_folder_is_pointed_at(tmp_path, cache):
    (tmp_path / "two").mkdir()
    pack(tmp_path / "two/a.tar", "ant/1.png", "bee/1.png")
    with pytest.raises(UserError, match=r"a\.tar: .* give the path of the archive"):
        datasets.open_training(str(tmp_path / "two"))
