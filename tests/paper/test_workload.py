"""Which experiments fit which images: of classes, with boxes, or both."""

import tarfile

import pytest

from resnets.data.datasets import open_training
from resnets.paper import experiments, workload
from resnets.paper.jobs import LocalizationTest
from resnets.support.errors import UserError
from tests.data.boxes.samples import draw_all, write_coco
from tests.detection.localization import ilsvrc_folder


@pytest.fixture
def options(workspace, cache):
    def made(data, budget="short"):
        return workload.Options(
            budget=budget, seeds=1, data=str(data), image_size=None,
            results=workspace.store.folder, runs=workspace.runs,
        )  # fmt: skip

    return made


def jobs_of(options, name):
    return workload.jobs_of([experiments.find(name)], options)


@pytest.fixture
def ilsvrc(tmp_path):
    """24 training photographs, of which two have no box."""
    root = ilsvrc_folder(tmp_path / "ilsvrc")
    for path in sorted(root.glob("Annotations/train/n00/*.xml"))[:2]:
        path.unlink()
    return root


def as_table(root, path):
    """The folder's images and one line for each of its boxes, in a tar."""
    lines = [["split", "wnid", "file", "x0", "y0", "x1", "y1"]]
    for split in ("train", "val"):
        for image in sorted(root.glob(f"{split}/*/*.png")):
            lines.append([split, image.parent.name, image.name, "3", "4", "20", "21"])
    (root / "boxes.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    with tarfile.open(path, "w") as file:
        for name in ("train", "val", "boxes.tsv"):
            file.add(root / name, f"tiny/{name}")
    return path


def test_photographs_with_boxes_serve_classification_and_localization(ilsvrc, options):
    chosen = options(ilsvrc)
    fits = {one.id for one in experiments.EXPERIMENTS if chosen.fits(one)}
    assert {"table2", "table5", "table13", "table8", "fig6", "table1"} <= fits
    center, dense = jobs_of(chosen, "table13")
    assert [type(one) for one in (center, dense)] == [LocalizationTest] * 2
    assert center.of.key == dense.of.key
    classifier = center.of.init
    assert classifier.key in {job.training.key for job in jobs_of(chosen, "table2")}
    assert (classifier.images, center.of.images) == (24, 22)
    assert center.of.steps() == center.of.plan.in_iterations(22).steps
    assert classifier.data.fingerprint != center.of.data.fingerprint


def test_a_table_of_boxes_in_a_tar_fits_too(ilsvrc, options, tmp_path):
    chosen = options(as_table(ilsvrc, tmp_path / "tiny.tar"))
    assert len(jobs_of(chosen, "table13")) == 2
    assert len(jobs_of(chosen, "table2")) == 4


def test_photographs_without_boxes_are_no_localization(ilsvrc, options):
    for path in ilsvrc.glob("Annotations/*/*/*.xml"):
        path.unlink()
    chosen = options(ilsvrc)
    with pytest.raises(UserError, match=r"table13 needs photographs with boxes") as caught:
        jobs_of(chosen, "table13")
    assert "with boxes in Annotations" in caught.value.hint
    assert len(jobs_of(chosen, "table2")) == 4
    assert not chosen.fits(experiments.find("table13"))


@pytest.mark.parametrize("name", ["table2", "table13"])
def test_the_folders_of_splits_are_no_classes(tmp_path, options, name):
    root = tmp_path / "coco"
    write_coco(root)
    draw_all(root / "val2017")
    with pytest.raises(UserError, match="no class folders"):
        open_training(str(root))
    chosen = options(root)
    with pytest.raises(UserError, match=f"{name} needs photographs"):
        jobs_of(chosen, name)
    assert not chosen.fits(experiments.find(name))
    assert chosen.fits(experiments.find("table8"))
