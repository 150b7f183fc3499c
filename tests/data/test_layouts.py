"""What a data folder's folders are - splits, classes, neither - and that nothing is lost unsaid."""

import re
import unicodedata

import numpy as np
import pytest

from resnets.data import datasets, folders, layouts, samples
from resnets.data.file_tree import FileTree, left_out_line
from resnets.data.split_names import split_of
from resnets.doctor import checks
from resnets.support.errors import UserError
from tests.data.test_folders import both, fill, listing


def each(classes, count=5, below=""):
    return [f"{below}{name}/{i}.jpg" for name in classes for i in range(count)]


def verbs(root):
    """Classes as training, test and doctor see them."""
    train = folders.load(root)
    test = folders.load_test(root)
    splits = checks.examine(root, threads=1).splits
    return set(train.classes), set(test.classes), {n for counts in splits.values() for n in counts}


@pytest.mark.parametrize("name", ["train", "training", "val", "valid", "validation", "test"])
def test_a_class_may_be_called_like_a_split(tmp_path, name):
    fill(tmp_path, *each(["bus", "car", name]))
    assert verbs(tmp_path) == ({"bus", "car", name},) * 3
    assert len(folders.load_test(tmp_path)) == 15


@pytest.mark.parametrize(
    "names",
    [
        (*each(["bus", "car"]), "train/freight/1.jpg", "train/express/2.jpg"),
        (*each(["exam", "quiz"]), "test/easy/1.jpg", "test/hard/2.jpg"),
        each(["bus", "train", "test"]),
    ],
)
def test_what_may_be_a_class_or_a_split_is_refused_by_all(tmp_path, names):
    fill(tmp_path, *names)
    for verb in (folders.load, folders.load_test):
        with pytest.raises(UserError, match=r"'(train|test)' may be|train, test may be"):
            verb(tmp_path)
    found = checks.examine(tmp_path, threads=1).findings
    assert any(f.kind == "layout" and "may be" in f.detail for f in found)


def test_splits_without_class_folders_are_refused(tmp_path):
    fill(tmp_path, "train/1.jpg", "train/2.jpg", "test/3.jpg")
    for verb in (folders.load, folders.load_test):
        with pytest.raises(UserError, match=r"train: contains images, but no class folders.*csv"):
            verb(tmp_path)
    two = fill(tmp_path / "two", "train/a/1.jpg", "training/b/1.jpg")
    with pytest.raises(UserError, match="both train, training"):
        folders.load(two)


def test_splits_in_any_letter_case(tmp_path):
    fill(tmp_path, *each("ab", below="Train/"), *each("ab", 2, "TEST/"))
    assert verbs(tmp_path) == ({"a", "b"},) * 3
    assert len(folders.load(tmp_path).val) == 4


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("training_set", "test_set"), ("train_set", "val_set"), ("training", "testing"),
        ("train2017", "val2017"),
        ("train_images", "val_images"), ("train_images", "test_images"), ("TrainSet", "Test-Set"),
        ("train", "dev"), ("train_data", "eval"), ("Training Images", "Validation Images"),
        ("training_set/training_set", "test_set/test_set"), ("Train/train", "Test/test"),
    ],
)  # fmt: skip
def test_common_names_of_splits(tmp_path, train, val):
    fill(tmp_path, *each("ab", below=f"{train}/"), *each("ab", 2, f"{val}/"))
    loaded = folders.load(tmp_path)
    assert (loaded.classes, len(loaded.train), len(loaded.val)) == (("a", "b"), 10, 4)
    assert len(folders.load_test(tmp_path)) == 4
    report = checks.examine(tmp_path, threads=1)
    assert report.splits == {"train": {"a": 5, "b": 5}, "val": {"a": 2, "b": 2}}
    assert "layout" not in [f.kind for f in report.findings]


def test_of_several_folders_to_test_on_the_first_is_used(tmp_path):
    fill(tmp_path, *each("ab", below="train_set/"), *each("ab", 2, "val_set/"))
    fill(tmp_path, *each("ab", 3, "test_set/"))
    loaded = folders.load(tmp_path)
    assert len(loaded.val) == 4
    assert loaded.notes == ("left out: test_set, as val_set holds the test images",)


def test_less_common_names_of_splits_are_classes_where_no_other_split_is(tmp_path):
    fill(tmp_path, *each(["dev", "ops"]), "dev/more/1.jpg", "dev/other/1.jpg")
    assert verbs(tmp_path) == ({"dev", "ops"},) * 3
    assert not split_of("test tube")
    assert split_of("VAL.images") == "val"
    assert (split_of("train2017"), split_of("val2014")) == ("train", "val")
    assert not split_of("val20170")


@pytest.mark.parametrize(
    ("one", "two"),
    [("fold1", "fold2"), ("2020", "2021"), ("nest", "sysf"), ("seg_train/seg_train", "seg_val")],
)
def test_two_levels_of_folders_that_may_be_the_classes_are_refused(tmp_path, one, two):
    fill(tmp_path, *each(["ants", "bees"], below=f"{one}/"), *each(["Ants", "bees"], 2, f"{two}/"))
    fill(tmp_path, "unlabelled/1.jpg")
    message = f"{one.split('/')[0]}, {two} hold the same folders, [Aa]nts, bees: .*name them train"
    for verb in (folders.load, folders.load_test):
        with pytest.raises(UserError, match=message):
            verb(tmp_path)
    found = checks.examine(tmp_path, threads=1)
    assert any(f.kind == "layout" and re.search(message, f.detail) for f in found.findings)
    assert folders.load(tmp_path / one).classes == ("ants", "bees")


def test_in_a_folder_train_the_outer_folders_are_the_classes(tmp_path):
    fill(tmp_path, *each(["2020", "2021"], below="ants/"), *each(["2020", "2021"], below="bees/"))
    with pytest.raises(UserError, match=r"if they are classes, move all .* a folder called train"):
        folders.load(tmp_path)
    (tmp_path / "train").mkdir()
    for name in ("ants", "bees"):
        (tmp_path / name).rename(tmp_path / "train" / name)
    assert verbs(tmp_path) == ({"ants", "bees"},) * 3
    assert folders.load_test(tmp_path / "train").classes == ("ants", "bees")


def test_moving_classes_into_train_keeps_the_images_of_a_run(tmp_path):
    def images():
        loaded = folders.load(tmp_path)
        return [samples.fingerprint(one) for one in (loaded.train, loaded.val)]

    fill(tmp_path, *each(["ants", "bees", "ants/2020"], 9))
    before = images()
    (tmp_path / "train").mkdir()
    for name in ("ants", "bees"):
        (tmp_path / name).rename(tmp_path / "train" / name)
    assert images() == before


def test_folders_in_class_folders_are_sound_unless_two_names_are_the_same(tmp_path):
    fill(tmp_path, *each(["2019", "2020"], below="ants/"), *each(["2020", "2021"], below="bees/"))
    fill(tmp_path, "ants/2021/notes.txt", "cow/2020/1.jpg", "cow/2021/2.jpg", "cow/3.jpg")
    assert verbs(tmp_path) == ({"ants", "bees", "cow"},) * 3


def test_splits_in_the_class_folders_are_refused(tmp_path):
    fill(tmp_path, *each(["train", "test"], below="ants/"), *each(["train", "test"], below="bees/"))
    with pytest.raises(UserError, match=r"ants, bees hold splits: .* as test/ants"):
        folders.load(tmp_path)


def test_images_without_class_folders_get_the_same_hint_from_all(tmp_path):
    fill(tmp_path, "1.jpg", "2.jpg")
    hint = "no images in class folders.*; put the images of each class into a folder of its own"
    for verb in (folders.load, folders.load_test):
        with pytest.raises(UserError, match=hint):
            verb(tmp_path)
    found = checks.examine(tmp_path, threads=1).findings
    assert re.fullmatch(hint, next(f.detail for f in found if f.kind == "layout"))


def test_test_images_alone_can_be_tested_on_but_not_trained_on(tmp_path):
    fill(tmp_path, *each("ab", below="val/"))
    assert folders.load_test(tmp_path).classes == ("a", "b")
    with pytest.raises(UserError, match="val holds test images, but there are none to train on"):
        folders.load(tmp_path)


def test_an_unlabelled_test_folder_does_not_stop_a_training(tmp_path):
    fill(tmp_path, *each("ab", below="train/"), "test/1.jpg", "test/2.jpg")
    loaded = folders.load(tmp_path)
    assert (len(loaded.train), len(loaded.val)) == (8, 2)
    assert loaded.notes == ("left out: test, as its images have no labels",)
    assert folders.load_test(tmp_path).notes == loaded.notes
    found = checks.examine(tmp_path, threads=1).findings
    assert ("not-used", "test, as its images have no labels") in [(f.kind, f.detail) for f in found]
    fill(tmp_path, *each("ab", 1, below="val/"))
    assert "left out: test, as its images have no labels" in folders.load(tmp_path).notes


def test_folders_beside_the_splits_are_named(tmp_path):
    fill(tmp_path, *each("ab", below="train/"), *each("ab", 1, "val/"), *each("ab", 1, "test/"))
    fill(tmp_path, "extra/1.jpg", "docs/readme.txt")
    assert folders.load(tmp_path).notes == (
        "left out: the folders extra, which are no splits",
        "left out: test, as val holds the test images",
    )


# --- left out files ---


SYSTEM = ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX",
          "lost+found", ".ipynb_checkpoints")  # fmt: skip


@pytest.mark.parametrize("name", SYSTEM)
def test_folders_of_the_system_are_neither_classes_nor_images(tmp_path, name):
    fill(tmp_path, *each("ab"), f"{name}/x.jpg", f"a/{name}/1.jpg")
    assert verbs(tmp_path) == ({"a", "b"},) * 3
    (line,) = folders.load_test(tmp_path).notes
    reason = "hidden" if name[0] == "." else f"folder of the system ({name})"
    assert line == f"left out: {reason}: 2"
    assert checks.examine(tmp_path, threads=1).ignored == {reason: 2}


def test_left_out_files_are_counted_by_kind(tmp_path):
    fill(tmp_path, *each("ab"), "a/x.txt", "a/y.TXT", "b/z.pdf", "b/.hidden", "loose.jpg")
    text = (
        "left out: not an image by its ending: 3 (.txt 2, .pdf 1), "
        "an image outside the class folders: 1, hidden: 1"
    )
    assert folders.load(tmp_path).notes == folders.load_test(tmp_path).notes == (text,)
    fill(tmp_path / "c", *each("ab"))
    assert folders.load(tmp_path / "c").notes == ()
    lines = []
    assert len(folders.image_files(tmp_path / "a", lines.append)) == 5
    assert lines == [f"{tmp_path / 'a'}: left out: not an image by its ending: 2 (.txt 2)"]


def test_a_class_whose_files_are_all_left_out_is_named(tmp_path):
    fill(tmp_path, *each("ab"), "cow/1.xyz", "cow/2.xyz")
    (tmp_path / "empty").mkdir()
    line = "no images in cow: all their files are left out; these are no classes"
    assert line in folders.load(tmp_path).notes
    found = [f.detail for f in checks.examine(tmp_path, threads=1).findings]
    assert found[-2:] == [
        "class cow is lost: all its files (2) are left out", "class empty has no images",
    ]  # fmt: skip


def test_links_back_are_left_out_and_counted(tmp_path):
    root = fill(tmp_path / "d", *each("ab", below="train/"), *each("ab", 1, "val/"))
    try:
        (root / "train/a/up").symlink_to(root)
        (root / "train/all").symlink_to(root / "train")
    except OSError:
        pytest.skip("no links here")
    loaded = folders.load(root)
    assert np.bincount(loaded.train.labels).tolist() == [5, 5]
    assert loaded.classes == ("a", "b")
    assert "left out: a link back to a folder above it: 2" in loaded.notes
    assert checks.examine(root, threads=1).ignored == {"a link back to a folder above it": 2}


def test_the_line_names_no_more_than_five_endings():
    tree = FileTree(layouts.Path())
    for n in range(7):
        tree.leave_out("x", f"not an image by its ending (.{n})")
    line = "left out: not an image by its ending: 7 (.0 1, .1 1, .2 1, .3 1, .4 1, ...)"
    assert left_out_line(tree.left_out) == line


# --- names that look alike ---


NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_unicode_forms_are_one_class_across_splits_and_within_one(tmp_path):
    fill(tmp_path, f"train/{NFC}/1.jpg", "train/b/2.jpg", f"val/{NFD}/3.jpg")
    assert both(tmp_path)[1] == {f"{NFD}/3.jpg": NFC}
    assert listing(folders.load_test(tmp_path)) == {f"{NFD}/3.jpg": NFC}
    report = checks.examine(tmp_path, threads=1)
    assert "unknown-class" not in [f.kind for f in report.findings]
    one = fill(tmp_path / "one", *each([NFC, NFD, "b"]))
    loaded = folders.load(one)
    assert len(loaded.classes) == 2
    assert any("two Unicode forms" in line for line in loaded.notes)
    assert "similar-names" in [f.kind for f in checks.examine(one, threads=1).findings]


@pytest.mark.parametrize("other", ["Cat", "cat ", "CAT"])
def test_classes_that_look_alike_are_pointed_out(tmp_path, other):
    fill(tmp_path, *each(["cat", other, "dog"]))
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system has no such names")
    assert any("differ in nothing but" in line for line in folders.load(tmp_path).notes)
    assert "similar-names" in [f.kind for f in checks.examine(tmp_path, threads=1).findings]
    split = fill(tmp_path / "split", *each(["cat", "dog"], below="train/"), f"val/{other}/1.jpg")
    with pytest.raises(UserError, match="it looks like 'cat': give both the same name"):
        folders.load(split)
    found = checks.examine(split, threads=1).findings
    assert any(f.kind == "unknown-class" and "looks like cat" in f.detail for f in found)


def test_quarantine_matches_either_unicode_form_and_names_idle_lines(tmp_path):
    fill(tmp_path, *each("ab"), f"a/{NFD}.jpg")
    lines = f"a/{NFC}.jpg\na/0.jpg\nnowhere.jpg\n"
    (tmp_path / ".quarantine").write_text(lines, encoding="utf-8-sig")
    samples = folders.load_test(tmp_path)
    assert (len(samples), samples.quarantined) == (9, 2)
    assert samples.notes == (".quarantine: 1 of its lines match no image: nowhere.jpg",)
    names = folders.image_files(tmp_path)
    assert len(names) == 9
    assert "a/0.jpg" not in names
    (tmp_path / ".quarantine").write_text(lines, encoding="utf-16")
    for verb in (folders.load, folders.load_test, folders.image_files):
        with pytest.raises(UserError, match="UTF-16"):
            verb(tmp_path)


# --- wrapping folders ---


def test_a_folder_around_the_data_gets_a_hint(tmp_path):
    photos = fill(tmp_path / "d/photos", *each("ab"))
    fill(tmp_path / "d", "README.md", "__MACOSX/photos/._x.jpg")
    assert layouts.wrapped(tmp_path) == layouts.wrapped(tmp_path / "d") == photos
    assert layouts.wrapped(photos) == photos
    for root in (tmp_path, tmp_path / "d"):
        with pytest.raises(UserError, match=r"did you mean .*d/photos\?"):
            folders.load(root)
        assert any("did you mean" in line for line in folders.load_test(root).notes)
        found = checks.examine(root, threads=1).findings
        assert any(f.kind == "layout" and "did you mean" in f.detail for f in found)


@pytest.mark.parametrize(
    "names", [each("a"), each("ab"), ("a/x.jpg", "a/b/y.jpg"), ("labels.csv", "images/1.jpg")]
)
def test_data_folders_are_not_taken_for_wrapping(tmp_path, names):
    fill(tmp_path, *names)
    assert layouts.wrapped(tmp_path) == tmp_path


# --- tables ---


TABLE = [f"images/{i}.jpg" for i in range(10)]


def table(root, text, name="labels.csv", encoding="utf-8"):
    (root / name).write_text(text, encoding=encoding)


HEADS = ["file,label", "file_name,class", "image_name,Category", "Image ID,Breed", "path,y"]


@pytest.mark.parametrize("head", [*HEADS, ""])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("form", ["images/{}.jpg", "{}.jpg", "{}", "./images/{}.jpg"])
def test_training_from_one_table(tmp_path, head, separator, form):
    fill(tmp_path, *TABLE)
    rows = [f"{form.format(i)}{separator}{'ab'[i % 2]}" for i in range(10)]
    table(tmp_path, "\n".join([*([head.replace(",", separator)] if head else []), *rows]))
    loaded = folders.load(tmp_path)
    assert (len(loaded.train), len(loaded.val), loaded.classes) == (8, 2, ("a", "b"))
    expected = {f"images/{i}.jpg": "ab"[i % 2] for i in range(10)}
    assert {**listing(loaded.train), **listing(loaded.val)} == expected
    assert listing(folders.load_test(tmp_path)) == expected
    assert checks.examine(tmp_path, threads=1).splits == {"all": {"a": 5, "b": 5}}
    assert loaded.notes == ()


def test_columns_are_found_by_their_headings_and_a_split_is_used(tmp_path):
    fill(tmp_path, *TABLE, "images/more.jpg")
    rows = [f"9,{'xy'[i % 2]},{'test' if i > 7 else 'train'},{i}.jpg" for i in range(10)]
    table(tmp_path, "\n".join(["width,label,split,image", *rows]), "any name.csv", "utf-8-sig")
    for location in (tmp_path, tmp_path / "any name.csv"):
        loaded = datasets.open_training(str(location))
        assert (len(loaded.train), len(loaded.val), loaded.classes) == (8, 2, ("x", "y"))
        assert loaded.notes == ("left out: 1 image that any name.csv does not list",)
        assert len(datasets.open_test(str(location))) == 2
        report = checks.examine(location, threads=1)
        assert report.splits == {"train": {"x": 4, "y": 4}, "val": {"x": 1, "y": 1}}


def test_a_table_with_val_and_test_is_read_like_such_folders(tmp_path):
    fill(tmp_path, *TABLE)
    parts = ["train"] * 6 + ["val", "val", "test", "test"]
    rows = [f"{i}.jpg,{'ab'[i % 2]},{part}" for i, part in enumerate(parts)]
    table(tmp_path, "\n".join(["file,class,split", *rows]))
    loaded = folders.load(tmp_path)
    assert (len(loaded.train), len(loaded.val)) == (6, 2)
    assert loaded.notes == ("left out: split test of labels.csv, as val holds the test images",)
    assert len(folders.load_test(tmp_path)) == 2
    report = checks.examine(tmp_path, threads=1)
    assert report.splits == {"train": {"a": 3, "b": 3}, "val": {"a": 1, "b": 1}}
    rows[7] = "7.jpg,c,val"
    table(tmp_path, "\n".join(["file,class,split", *rows]))
    with pytest.raises(UserError, match="lists class 'c' to test on, but not to train on"):
        folders.load(tmp_path)
    (tmp_path / ".quarantine").write_text("images/7.jpg\n")
    assert folders.load(tmp_path).classes == ("a", "b")


def test_kaggles_train_csv_means_the_images_of_train(tmp_path):
    fill(tmp_path, *(f"{part}/{i}.jpg" for part in ("train", "test") for i in range(6)))
    rows = "\n".join(f"{i},{'ab'[i % 2]}" for i in range(6))
    table(tmp_path, f"id,breed\n{rows}\n", "train.csv")
    table(tmp_path, "id,a,b\n", "sample_submission.csv")
    loaded = folders.load(tmp_path)
    assert {n[:6] for n in listing(loaded.train)} == {"train/"}
    assert "left out: 6 images that train.csv does not list" in loaded.notes


def test_a_labels_tsv_can_be_trained_on(tmp_path):
    fill(tmp_path, *(f"{i}.jpg" for i in range(6)))
    rows = "\n".join(f"{i}.jpg\t{i % 2}\tname" for i in range(6))
    table(tmp_path, f"file\tclass_index\tname\n{rows}\n", "labels.tsv")
    assert folders.load(tmp_path).classes == ("0", "1")
    assert folders.load_test(tmp_path).classes is None
    assert folders.load_test(tmp_path / "labels.tsv").classes is None
    names = rows.replace("\t0\t", "\tcat\t").replace("\t1\t", "\tdog\t")
    table(tmp_path, f"file\tclass\tx\n{names}\n", "labels.tsv")
    assert folders.load_test(tmp_path).classes == folders.load(tmp_path).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n1.jpg,a\nnone.jpg,b\n", "line 3: lists an image that does not exist: none"),
        ("file,label\nx.jpg,a\n", "line 2: lists x.jpg, which may be .*/x.jpg or .*/x.jpg; list"),
        ("file,label\n1.jpg,a\nimages/1.jpg,b\n", "line 3: lists images/1.jpg again"),
        ("file,label,split\n1.jpg,a,third\n", "line 2: unknown split 'third'"),
        ("file,width,kind\n1.jpg,3,a\n", "does not say which column is the class"),
        ("1.jpg,3,a\n", "does not say which column is the class"),
        ("file,label\n1.jpg\n", "line 2: needs an image and its class"),
        ("file,label\n", "lists no images"),
        ("file,label\n1.jpg,a\n2.jpg,a\n", "only one class, 'a'"),
        ("file,label\n1.jpg,dog, small\n2.jpg,cat\n", "line 2: has 3 cells.*put names with comma"),
        ("file,label\n1.jpg,a\n2.jpg,b,x\n", "line 3: has 3 cells, but line 1 has 2"),
        ("file label\n1.jpg a\n2.jpg big dog\n", "line 3: has 3 cells"),
        ("file,label,x\n1.jpg,a\n", "line 2: has 2 cells, but line 1 has 3"),
        ("file,label,label\n1.jpg,a,c\n2.jpg,b,d\n", "be the class: 'label' and 'label'; rem"),
        (
            "file,Label,class\n1.jpg,0,x\n2.jpg,1,x\n3.jpg,0,y\n",
            "be the class: 'class' and 'Label'",
        ),
        ("file,image,label\n1.jpg,2.jpg,a\n2.jpg,1.jpg,b\n", "be the image: 'file' and 'image'"),
        ("file,file,label\n1.jpg,2.jpg,a\n", "be the image: 'file' and 'file'"),
        ("file,label,split,split\n1.jpg,a,val,train\n", "be the split: 'split' and 'split'"),
        ("file,label\n1.jpg,a\nimages/1.jpg,b\n", "again, after line 2: as 'b', and there as 'a'"),
        ("file,label\n1.JPG,a\n2.jpg,b\n", r"not exist: 1.JPG; did you mean 1.jpg\?"),
        (b"file,label\n1.jpg,K\xe4se\n", r"line 2: the class K\\xe4se is not UTF-8 text; save"),
        (b"file,label\nK\xe4se.jpg,a\n", "line 2: lists an image.*; save the file as UTF-8"),
    ],
)
def test_mistakes_in_tables_are_reported_with_their_line(tmp_path, text, message):
    fill(tmp_path, *TABLE, "images/x.jpg", "images/deep/x.jpg")
    (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        folders.load(tmp_path)
    found = checks.examine(tmp_path, threads=1).findings
    assert sum(finding.kind in ("layout", "label-file") for finding in found) == 1


def test_two_columns_that_say_the_same_are_no_contradiction(tmp_path):
    fill(tmp_path, *TABLE)
    rows = [f"images/{i}.jpg,{i}.jpg,{i % 2},{'ab'[i % 2]},{i % 3}" for i in range(10)]
    table(tmp_path, "\n".join(["path,file,class_id,class_name,type", *rows]))
    assert folders.load(tmp_path).classes == ("a", "b")
    table(tmp_path, "\n".join(["file,label", *(f"{i}.jpg,{'ab'[i % 2]},," for i in range(10))]))
    assert folders.load(tmp_path).classes == ("a", "b")


def test_classes_that_are_the_same_number_are_pointed_out(tmp_path):
    fill(tmp_path, *TABLE)
    names = ["1", "1.0", "01", "0", "-1", "10", "1e0", "1.05", "1.0.0", "v1"]
    table(tmp_path, "\n".join(["file,label", *(f"{i}.jpg,{n}" for i, n in enumerate(names))]))
    found = checks.examine(tmp_path, threads=1).findings
    alike = [finding.detail for finding in found if finding.kind == "similar-names"]
    same = ["classes '1' and '01' are the same number", "classes '1' and '1.0' are the same number"]
    assert sorted(alike) == same
    fill(tmp_path / "more", "01/1.jpg", "01/2.jpg", "1/1.jpg", "1/2.jpg")
    notes = folders.load(tmp_path / "more").notes
    assert notes == ("classes '01' and '1' are the same number",)


def test_tables_in_utf16_are_refused(tmp_path):
    fill(tmp_path, *TABLE)
    table(tmp_path, "file,label\n1.jpg,a\n", encoding="utf-16")
    for verb in (folders.load, folders.load_test):
        with pytest.raises(UserError, match=r"labels.csv: is not UTF-8.*save it as UTF-8"):
            verb(tmp_path)
    assert checks.examine(tmp_path, threads=1).findings


def test_class_folders_come_before_a_table_which_is_named(tmp_path):
    fill(tmp_path, *each("ab"))
    table(tmp_path, "file,label\na/1.jpg,x\nb/1.jpg,y\n")
    loaded = folders.load(tmp_path)
    assert loaded.classes == ("a", "b")
    assert any("labels.csv is not used" in line for line in loaded.notes)
    assert folders.load_test(tmp_path / "labels.csv").classes == ("x", "y")


@pytest.mark.parametrize("head", ["file_name;label", "Image ID;class"])
def test_a_flat_val_with_paths_of_all_splits(tmp_path, head):
    fill(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "val/3.jpg", "val/4.jpg")
    rows = "train/a/1.jpg;a\nval/3.jpg;a\nval/4.jpg;b\n"
    (tmp_path / "labels.csv").write_text(f"{head}\n{rows}", encoding="utf-8-sig")
    assert both(tmp_path)[1] == {"3.jpg": "a", "4.jpg": "b"}
