"""Folders of images: layouts, odd names, changes, label files, quarantine."""

import os
import pickle

import numpy as np
import pytest

from resnets.data import folders, samples
from resnets.doctor import checks
from resnets.support.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(cache):
    return cache


def fill(root, *names):
    """Files of these names; their content does not matter here."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))
    return root


def settle(root):
    """Give everything the same old date."""
    then = 1_600_000_000
    for path in (root, *root.rglob("*")):
        os.utime(path, (then, then))


def listing(images):
    """Names with their classes."""
    classes = images.classes
    names = [images.name(i) for i in range(len(images))]
    return {n: classes[k] if classes else k for n, k in zip(names, images.labels, strict=True)}


def both(root):
    loaded = folders.load(root)
    return listing(loaded.train), listing(loaded.val)


TWO = ("train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "val/dog/4.jpg")


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test"])
@pytest.mark.parametrize("train", ["train", "training"])
def test_train_and_val(tmp_path, train, val):
    fill(tmp_path, f"{train}/cat/1.jpg", f"{train}/dog/2.JPEG", f"{val}/cat/a/3.png")
    assert both(tmp_path) == ({"cat/1.jpg": "cat", "dog/2.JPEG": "dog"}, {"cat/a/3.png": "cat"})
    assert listing(folders.load_test(tmp_path)) == {"cat/a/3.png": "cat"}
    assert folders.load(tmp_path).classes == ("cat", "dog")


def test_images_are_read_with_their_content(tmp_path):
    train = folders.load(fill(tmp_path, *TWO)).train
    assert [train.read(i) for i in range(2)] == [b"train/cat/1.jpg", b"train/dog/2.jpg"]
    (tmp_path / "train/dog/2.jpg").unlink()
    with pytest.raises(UserError, match=r"dog/2.jpg: the image was removed"):
        train.read(1)


def test_hidden_and_other_files_are_excluded(tmp_path):
    noise = (
        "train/cat/.hidden.jpg",
        "train/cat/.ipynb_checkpoints/1-checkpoint.jpg",
        "train/.ipynb_checkpoints/x.jpg",
        "train/.DS_Store",
        "train/cat/Thumbs.db",
        "train/cat/readme.txt",
        "train/loose.jpg",
        "val/._4.jpg",
    )
    fill(tmp_path, *TWO, *noise)
    (tmp_path / "train/cat/folder.jpg").mkdir()
    train, val = both(tmp_path)
    assert set(train) == {"cat/1.jpg", "dog/2.jpg"}
    assert set(val) == {"cat/3.jpg", "dog/4.jpg"}


ODD = ["with blank", "größe", "日本", "a,b", "#1", "0", "10", "9", "\udcff\udcfe"]


def test_odd_names_of_classes_and_images(tmp_path):
    names = [f"{c}/{d} x.jpg" for c in ODD for d in ODD]
    try:
        root = fill(tmp_path / "d", *names)
    except (OSError, UnicodeError):
        pytest.skip("this file system refuses such names")
    images = folders.load_test(root)
    assert images.classes == tuple(sorted(ODD))
    assert listing(images) == {name: name.split("/")[0] for name in names}
    read = {images.read(i) for i in range(len(images))}
    assert read == {name.encode("utf-8", "surrogateescape") for name in names}
    assert len(samples.fingerprint(images)) == 16


def test_links_that_lead_back_are_not_followed(tmp_path):
    fill(tmp_path, "cat/1.jpg", "dog/2.jpg", "elsewhere/3.jpg")
    try:
        (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat")
        (tmp_path / "cat" / "self").symlink_to(tmp_path / "cat" / "self")
        (tmp_path / "dog" / "more").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    except OSError:
        pytest.skip("no links here")
    names = {"cat/1.jpg", "dog/2.jpg", "dog/more/3.jpg", "elsewhere/3.jpg"}
    assert set(listing(folders.load_test(tmp_path))) == names


def test_empty_classes_do_not_count(tmp_path):
    fill(tmp_path, *TWO)
    (tmp_path / "train" / "bird").mkdir()
    (tmp_path / "val" / "bird").mkdir()
    fill(tmp_path, "train/ant/readme.txt")
    loaded = folders.load(tmp_path)
    assert loaded.classes == ("cat", "dog")
    assert listing(loaded.val) == {"cat/3.jpg": "cat", "dog/4.jpg": "dog"}
    test = folders.load_test(tmp_path)  # numbers its classes as the training did
    assert test.classes == loaded.classes
    assert np.array_equal(test.labels, loaded.val.labels)


def test_a_class_missing_in_val_keeps_the_numbers(tmp_path):
    fill(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "train/c/3.jpg", "val/c/4.jpg")
    val = folders.load(tmp_path).val
    assert val.classes == ("a", "b", "c")
    assert val.labels.tolist() == [2]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no images"),
        (("cat/readme.txt",), "no images"),
        (
            ("1.jpg", "2.jpg"),
            r"no images in class folders \(left out: .*an image outside the class folders: 2\); "
            "put the images of each class into a folder of its own",
        ),
        (("cat/1.jpg", "cat/2.jpg"), "only one class, 'cat'"),
        (("train/cat/1.jpg", "val/cat/1.jpg"), "only one class, 'cat'"),
        ((*TWO, "val/bird/5.jpg"), "class 'bird' is not among the 2 training classes"),
        (
            (*TWO, "val/bird/5.jpg", "val/cow/5.jpg"),
            r"'bird' \(and 1 more\) is not among the 2 training classes",
        ),
        (("train/cat/1.jpg", "train/dog/2.jpg", "val/x.txt"), "val: no images"),
        (("cat/1.jpg", "dog/2.jpg"), "no class has two images"),
    ],
)
def test_unusable_folders_are_one_clear_error(tmp_path, names, message):
    fill(tmp_path, *names)
    with pytest.raises(UserError, match=message) as caught:
        folders.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_no_folder(tmp_path):
    for load in (folders.load, folders.load_test):
        with pytest.raises(UserError, match="no such folder"):
            load(tmp_path / "absent")
        fill(tmp_path, "file")
        with pytest.raises(UserError, match="not a folder"):
            load(tmp_path / "file")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everything can be read here")
def test_an_unreadable_folder(tmp_path):
    fill(tmp_path, *TWO)
    (tmp_path / "train/cat").chmod(0)
    with pytest.raises(UserError, match="cannot be read"):
        folders.load(tmp_path)
    (tmp_path / "train/cat").chmod(0o755)


# --- changes of the folder ---


CHANGES = {
    "added": lambda root: fill(root, "cat/new.jpg"),
    "added below": lambda root: fill(root, "dog/deep/deeper/new.jpg"),
    "removed": lambda root: (root / "cat/1.jpg").unlink(),
    "removed below": lambda root: (root / "dog/deep/deeper/4.jpg").unlink(),
    "renamed": lambda root: (root / "cat/1.jpg").rename(root / "cat/one.jpg"),
    "class added": lambda root: fill(root, "eel/1.jpg"),
    "class renamed": lambda root: (root / "cat").rename(root / "tiger"),
    "folder added": lambda root: fill(root, "dog/deep/other/1.jpg"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen_whatever_the_dates_say(tmp_path, change):
    root = fill(tmp_path / "d", "cat/1.jpg", "cat/2.jpg", "dog/3.jpg", "dog/deep/deeper/4.jpg")
    settle(root)
    before = listing(folders.load_test(root))
    CHANGES[change](root)
    settle(root)  # as rsync -t and restored archives leave it
    after = listing(folders.load_test(root))
    assert after != before
    there = {p.relative_to(root).as_posix() for p in root.rglob("*.jpg")}
    assert set(after) == there


def test_a_folder_can_be_pickled(tmp_path):
    images = folders.load(fill(tmp_path, *TWO)).train
    assert listing(pickle.loads(pickle.dumps(images))) == listing(images)


# --- a single folder ---


def test_the_split_of_a_single_folder_depends_on_the_seed(tmp_path):
    names = [
        f"{c}/{i}.jpg" for c, n in (("a", 50), ("b", 20), ("c", 2), ("d", 1)) for i in range(n)
    ]
    fill(tmp_path, *names)
    loaded = folders.load(tmp_path)
    train, val = listing(loaded.train), listing(loaded.val)
    assert {*train, *val} == set(names)
    assert not {*train} & {*val}
    assert np.bincount(loaded.val.labels, minlength=4).tolist() == [10, 4, 1, 0]
    assert (train, val) == both(tmp_path)
    other = folders.load(tmp_path, split_seed=1)
    assert set(listing(other.val)) != set(val)
    assert len(folders.load_test(tmp_path)) == len(names)


def test_train_alone_is_split_too(tmp_path):
    fill(tmp_path, *(f"train/{c}/{i}.jpg" for c in "ab" for i in range(10)))
    loaded = folders.load(tmp_path)
    assert (len(loaded.train), len(loaded.val)) == (16, 4)


# --- label files ---


FLAT = ("train/n01/a.jpg", "train/n02/b.jpg", "val/i_1.JPEG", "val/i_2.JPEG", "val/i_3.JPEG")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("val_annotations.txt", "{0}\tn02\t0\t0\t9\n{1}\tn01\t0\t0\t9\n{2}\tn02\t0\t0\t9\n"),
        ("LOC_val_solution.csv", "ImageId,PredictionString\ni_2,n01 1 2 3 4 n01 5 6 7 8\n"
         "i_1,n02 85 1 499 272\ni_3,n02 1 1 4 2 \n"),
        ("val_map.txt", "{0} n02\r\n{1} n01\r\n\r\n{2} n02\r\n"),
        ("val_labels.txt", "\ufeff{0},n02\n{1},n01\n{2},n02\n"),
        ("labels.csv", "id,breed\ni_1,n02\ni_2,n01\ni_3,n02\n"),
        ("labels.txt", "filename label\n{0} n02\n{1} n01\n{2} n02"),
        ("ILSVRC2012_validation_synsets.txt", "n02\nn01\nn02\n"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["val", ""])
def test_a_flat_val_with_a_label_file(tmp_path, file, text, place):
    fill(tmp_path, *FLAT, "val/.hidden.jpg")
    text = text.format("i_1.JPEG", "i_2.JPEG", "i_3.JPEG")
    (tmp_path / place / file).write_text(text, encoding="utf-8", newline="")
    expected = {"i_1.JPEG": "n02", "i_2.JPEG": "n01", "i_3.JPEG": "n02"}
    assert both(tmp_path)[1] == expected
    assert listing(folders.load_test(tmp_path)) == expected


def test_tiny_imagenets_own_layout(tmp_path):
    fill(tmp_path, "train/n01/images/a.JPEG", "train/n02/images/b.JPEG")
    fill(tmp_path, "val/images/val_0.JPEG", "val/images/val_1.JPEG")
    (tmp_path / "val/val_annotations.txt").write_text("val_0.JPEG\tn02\t1\nval_1.JPEG\tn01\t1\n")
    loaded = folders.load(tmp_path)
    assert listing(loaded.val) == {"val_0.JPEG": "n02", "val_1.JPEG": "n01"}
    assert loaded.val.read(0) == b"val/images/val_0.JPEG"


def test_names_with_blanks_in_a_label_file(tmp_path):
    fill(tmp_path, "train/big cat/a.jpg", "train/dog/b.jpg", "val/my photo.jpg", "val/it.jpg")
    (tmp_path / "val/labels.csv").write_text('file,label\nmy photo.jpg,"big cat"\nit.jpg,dog\n')
    assert both(tmp_path)[1] == {"my photo.jpg": "big cat", "it.jpg": "dog"}


def test_class_folders_take_precedence_over_a_label_file(tmp_path):
    fill(tmp_path, *TWO)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "val/val_annotations.txt").write_text("3.jpg\tdog\t0\n")
    assert both(tmp_path)[1] == {"cat/3.jpg": "cat", "dog/4.jpg": "dog"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "i_1.JPEG n02\ni_9.JPEG n01\n",
            r"val_map.txt, line 2: lists an image that does not",
        ),
        ("i_1.JPEG n02\n\ni_2.JPEG n07\n", r"val_map.txt, line 3: class 'n07' is not among the 2"),
        ("i_1.JPEG n02\ni_2.JPEG\n", r"val_map.txt, line 2: needs an image and its class"),
        ("i_1.JPEG n02\ni_1.JPEG n01\n", r"val_map.txt, line 2: lists i_1.JPEG again"),
        ("n01\nn02\n", r"val_map.txt: has 2 classes for 3 images"),
        ("\n", r"val_map.txt: lists no images"),
        ("i" * 300 + " n01\n", r"val_map.txt, line 1: lists an image that does not exist: iii"),
        ('i_1.JPEG,n01\n"i_2.JPEG,n02\n', r"val_map.txt, line 2: needs an image and its class"),
        ("x" * 200_000 + ",n02\n", r"val_map.txt, line 1: cannot be read"),
    ],
)
def test_mistakes_in_class_names_are_reported_with_their_line(tmp_path, text, message):
    fill(tmp_path, *FLAT)
    (tmp_path / "val/val_map.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        folders.load(tmp_path)
    assert checks.examine(tmp_path, threads=1).findings


def test_numbered_images(tmp_path):
    fill(tmp_path, "x 1.jpg", "y.png", "unlisted.png")
    (tmp_path / "labels.tsv").write_text(
        "file\tclass_index\tname\nx 1.jpg\t985\tdaisy\ny.png\t3\t\n"
    )
    images = folders.load_test(tmp_path)
    assert images.classes is None
    assert listing(images) == {"x 1.jpg": 985, "y.png": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\tnumber\nx.jpg\t1\n", "no column 'class_index'"),
        ("file\tclass_index\nx.jpg\tdaisy\n", "labels.tsv, line 2: 'daisy' is not a class index"),
        ("file\tclass_index\nx.jpg\n", "line 2: None is not a class index"),
        ("file\tclass_index\nx.jpg\t-1\n", "line 2: class index -1 is negative"),
        ("file\tclass_index\nx.jpg\t1\nz.jpg\t1\n", "line 3: lists an image that does not exist"),
        ("file\tclass_index\nx.jpg\t1\nx.jpg\t2\n", "line 3: lists x.jpg again"),
        ("file\tclass_index\n\t1\n", "line 2: the column 'file' is empty"),
        ("file\tclass_index\n", "lists no images"),
        ("file\tclass_index\nx.jpg\t" + "9" * 23, "line 2: class index 9+ is too large"),
        ("file\tclass_index\n" + "x" * 300 + "\t1", "line 2: lists an image that does not exist"),
        ('file\tclass_index\n"x.jpg\t1\n', 'line 2: lists an image that does not exist: "x.jpg'),
        ("file\tclass_index\n" + "x" * 200_000 + "\t1", "line 2: cannot be read"),
        ("", "no column 'file'"),
    ],
)
def test_mistakes_in_class_indices_are_reported_with_their_line(tmp_path, text, message):
    fill(tmp_path, "x.jpg")
    (tmp_path / "labels.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        folders.load_test(tmp_path)
    checks.examine(tmp_path, threads=1)


# --- quarantine ---


def test_quarantined_images_are_excluded(tmp_path):
    fill(tmp_path, *TWO, "train/cat/#5.jpg", "val/dog/deep/6.jpg")
    assert [len(x) for x in both(tmp_path)] == [3, 3]
    lines = "# these are broken\ntrain/cat/1.jpg\n\nval/dog/4.jpg\r\n./nowhere.jpg\n"
    (tmp_path / ".quarantine").write_text(lines, newline="")
    train, val = both(tmp_path)
    assert set(train) == {"cat/#5.jpg", "dog/2.jpg"}
    assert train["cat/#5.jpg"] == "cat"
    assert set(val) == {"cat/3.jpg", "dog/deep/6.jpg"}
    (tmp_path / ".quarantine").unlink()
    assert [len(x) for x in both(tmp_path)] == [3, 3]


def test_quarantine_in_the_other_layouts(tmp_path):
    single = fill(tmp_path / "single", *(f"{c}/{i}.jpg" for c in "ab" for i in range(5)))
    (single / ".quarantine").write_text("a/0.jpg\n")
    assert "a/0.jpg" not in {**both(single)[0], **both(single)[1]}
    flat = fill(tmp_path / "flat", *FLAT)
    (flat / "val/val_map.txt").write_text("i_1.JPEG n02\ni_2.JPEG n01\ni_3.JPEG n02\n")
    (flat / ".quarantine").write_text("val/i_2.JPEG\n")
    assert both(flat)[1] == {"i_1.JPEG": "n02", "i_3.JPEG": "n02"}
    listed = fill(tmp_path / "listed", "x.jpg", "y.jpg")
    (listed / "labels.tsv").write_text("file\tclass_index\nx.jpg\t1\ny.jpg\t2\n")
    (listed / ".quarantine").write_text("y.jpg\n")
    assert listing(folders.load_test(listed)) == {"x.jpg": 1}


def test_a_class_whose_images_are_all_in_quarantine_does_not_count(tmp_path):
    fill(tmp_path, *TWO, "train/ant/1.jpg")
    (tmp_path / ".quarantine").write_text("train/ant/1.jpg\n")
    assert folders.load(tmp_path).classes == folders.load_test(tmp_path).classes == ("cat", "dog")


def test_train_alone_can_be_tested_on(tmp_path):
    fill(tmp_path, *(f"train/{c}/{i}.jpg" for c in ("cat", "dog") for i in range(5)))
    images = folders.load_test(tmp_path)
    assert (len(images), images.classes) == (10, folders.load(tmp_path).classes)


@pytest.mark.parametrize("link", ["cat/loop.jpg", "cat/loop", "loop", "loop.jpg"])
def test_a_link_to_itself_is_excluded(tmp_path, link):
    fill(tmp_path, *(f"{c}/{i}.jpg" for c in ("cat", "dog") for i in range(5)))
    (tmp_path / link).symlink_to((tmp_path / link).name)
    assert len(folders.load_test(tmp_path)) == 10
    found = checks.examine(tmp_path, threads=1).findings
    assert ("cat" not in link) or [f for f in found if f.paths == (link,)]
