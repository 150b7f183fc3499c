"""Tables 7 to 12: the jobs of detectors, run on drawn boxes, and their tables."""

import json
from pathlib import Path

import pytest

from resnets.paper import detection_tables, detector_jobs, experiments, report, workload
from resnets.paper.document import Missing, Table
from resnets.paper.experiments import Setup
from resnets.paper.jobs import DataSet, Workspace
from resnets.paper.results import Results
from resnets.paper.runner import Runner, missing
from resnets.paper.store import Group, Outcome, Store
from resnets.support.errors import UserError
from tests.detection.files import coco_folder
from tests.detection.shapes import recipe
from tests.paper.conftest import InProcess, Silent

BOXES = DataSet("voc", "/data/voc", "abc/def", 5_011, 600)


def jobs_of(name, budget="full"):
    return experiments.find(name).jobs(Setup(budget, 1, BOXES))


def test_table_9_adds_one_improvement_after_the_other():
    jobs = jobs_of("table9")
    assert [job.step for job in jobs] == [
        *detection_tables.STEPS.values(), detection_tables.ENSEMBLE
    ]  # fmt: skip
    words = [job.arguments(Workspace(Store(Path("results")), Path("runs"))) for job in jobs]
    assert ["--refine" in one for one in words] == [False, True, True, True, True]
    assert ["--scales" in one for one in words] == [False, False, False, True, True]
    assert [one.count("--with") for one in words] == [0, 0, 0, 0, 2]
    trainings = {one.key: one for job in jobs for one in job.prerequisites}
    assert len(trainings) == 4
    assert [one.plan.detection.context for one in trainings.values()] == [False, True, True, True]
    assert {one.plan.steps for one in trainings.values()} == {4 * 320_000}


def test_a_short_budget_trains_one_detector_for_tables_7_and_8():
    (voc,), (coco,) = jobs_of("table7", "short"), jobs_of("table8", "short")
    assert voc.of.key == coco.of.key != voc.key
    (voc,), (coco,) = jobs_of("table7"), jobs_of("table8")
    assert (voc.of.recipe, coco.of.recipe) == ("detect-voc", "detect-coco")
    assert voc.of.plan.detection.training == "alternating"


def test_more_improvements_take_longer():
    works = [workload.work(job, 100) for job in jobs_of("table9", "short")]
    assert works[0] < works[1] == works[2] < works[3] < works[4]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Recipes of a tiny network, and a folder with boxes."""
    init = recipe(tmp_path).init
    changes = (
        f'init="{init}"', 'freeze="stem"', "epochs=1", "test_every=1", "schedule.warmup=0",
        "limit=4", "detection.rois=4", "detection.test_proposals=10", "detection.max_size=800",
    )  # fmt: skip
    monkeypatch.setitem(
        detector_jobs.RECIPES, "smoke", ("detect-finetune", "cifar-resnet8", changes)
    )
    monkeypatch.setattr(detector_jobs, "ENSEMBLE", 2)
    monkeypatch.setitem(workload.SIZES, "smoke", 40)
    return coco_folder(tmp_path / "drawn")


def test_jobs_run_and_the_report_shows_them(tiny, workspace, monkeypatch, cache, tmp_path):
    options = workload.Options(
        budget="smoke", seeds=1, data=str(tiny), image_size=None,
        results=workspace.store.folder, runs=workspace.runs,
    )  # fmt: skip
    every = workload.jobs_of([experiments.find("table9")], options)
    jobs = [every[0], every[-1]]  # the others differ by an option
    todo = missing(jobs, workspace)
    workspace.store.prepare()
    Runner(workspace, InProcess(monkeypatch), Silent(), at_once=1, environment={}).run(todo)
    assert not [job for job in jobs if not job.is_finished(workspace.store)]
    results = Results(workspace.store.everything())
    (group,) = results.groups(variant=True)
    assert str(group) == "drawn-40-smoke-detector"
    assert results.groups() == []
    for job in jobs:
        outcome = workspace.store.read(job.key)
        assert outcome.values["metric"] == "coco"
        assert outcome.values["train_images"] == 4
        assert ("box refinement" in outcome.values["protocol"]) == job.refine
    page = report.build(list(workspace.store.everything()), tmp_path)
    tables = [part for section in page.sections for part in section.parts
              if isinstance(part, Table) and part.caption.startswith("Table 9")]  # fmt: skip
    heads = [(head.text, head.note) for head in tables[0].header]
    assert heads[-1] == ("here", "not comparable")
    rows = {(row[0].text, row[1].text): row for row in tables[0].rows}
    assert rows["+ context", "val, AP50"][2].text == "51.1"
    assert rows["ensemble", "val, AP50"][3].sources
    assert rows["+ context", "val, AP"][3].text == "not run"
    assert rows["+ context", "test-dev, AP"][3].text == "not run"
    assert rows["baseline, VGG-16", "val, AP"][3].text == ""


def test_images_of_the_other_kind_are_refused(tiny, workspace):
    def options(data):
        return workload.Options(
            budget="smoke", seeds=1, data=data, image_size=None,
            results=workspace.store.folder, runs=workspace.runs,
        )  # fmt: skip

    with pytest.raises(UserError, match="table7 needs images with boxes"):
        workload.jobs_of([experiments.find("table7")], options(None))
    with pytest.raises(UserError, match="table2 needs photographs"):
        workload.jobs_of([experiments.find("table2")], options(str(tiny)))
    fits = [e.id for e in experiments.EXPERIMENTS if options(str(tiny)).fits(e)]
    assert "table9" in fits
    assert "table2" not in fits


def outcome(step, values, budget="full", iterations=80_000, size=600, network="resnet101"):
    identity = {
        "network": network, "seed": 0, "budget": budget, "step": step,
        "plan": {"iterations": iterations},
    }  # fmt: skip
    group = Group("voc", size, budget, detector_jobs.VARIANT)
    return Outcome(group, f"resnet101-seed0.{step}", "detection", identity, values, {})


def cells(table, column):
    return {row[1].text: row[3].text for row in table.rows if row[0].text == column}


def test_categories_are_compared_one_by_one():
    values = {
        "mAP": 75.25, "images": 4952, "train_images": 16_551,
        "categories": [{"category": "cat", "AP": 88.5}],
    }  # fmt: skip
    results = Results([outcome("voc07", values)])
    table = detection_tables.table10(results)
    assert table.header[3].note == ""
    found = cells(table, "ResNet-101")
    assert (found["mAP"], found["cat"], found["dog"]) == ("75.25", "88.50", "not run")
    assert cells(table, "VGG-16")["cat"] == ""
    assert detection_tables.missing(results, ["voc07"]) == []
    assert detection_tables.missing(results, ["coco"]) == ["coco"]


COCO = {"AP": 27.0, "AP50": 48.0, "images": 40_504, "train_images": 82_783}


@pytest.mark.parametrize(
    ("changed", "options"),
    [
        ({}, {}),
        ({"images": 4_952}, {}),  # VOC 2007 under COCO's numbers
        ({"images": 40_503}, {}),
        ({"train_images": 16_551}, {}),
        ({"train_images": 82_081}, {}),
        ({"train_images": None}, {}),  # of an earlier version
        ({}, {"iterations": 80_000}),
        ({}, {"size": 300}),
        ({}, {"budget": "short"}),
        ({}, {"network": "resnet50"}),
    ],
)
def test_only_the_papers_images_and_length_are_comparable(changed, options):
    made = outcome("coco", COCO | changed, **{"iterations": 320_000, **options})
    fair = not changed and not options
    results = Results([made])
    for table in (detection_tables.table8, detection_tables.table9):
        assert table(results).header[3].note == ("" if fair else "not comparable")
    assert detection_tables.missing(results, ["coco"]) == ([] if fair else ["coco"])


def test_a_table_is_judged_by_its_own_tests():
    voc = outcome("voc07", {"mAP": 75.25, "images": 4952, "train_images": 16_551, "categories": []})
    both = Results([voc, outcome("coco", {**COCO, "images": 4952})])
    assert detection_tables.table7(both).header[3].note == ""
    assert detection_tables.table8(both).header[3].note == "not comparable"


def test_table_9_lacks_its_ensemble_until_that_has_run():
    experiment, steps = experiments.find("table9"), detection_tables.STEPS.values()
    rows = [outcome(step, COCO, iterations=320_000) for step in steps]

    def lines(results):
        parts = [part for make in experiment.parts for part in make(experiment, Results(results))]
        return [part.text for part in parts if isinstance(part, Missing)]

    assert lines(rows) == ["Not run on the paper's images at its length yet"]
    assert lines([*rows, outcome(detection_tables.ENSEMBLE, COCO, iterations=320_000)]) == []


def test_damaged_results_are_named():
    with pytest.raises(UserError, match="categories"):
        detection_tables.table10(Results([outcome("voc07", {"mAP": 1.0})]))


def test_without_results_all_is_not_run():
    table = detection_tables.table9(Results([]))
    assert cells(table, "ensemble") == {
        "val, AP50": "not run", "val, AP": "not run",
        "test-dev, AP50": "not run", "test-dev, AP": "not run",
    }  # fmt: skip
    assert json.dumps([row[2].text for row in table.rows]).count("59.0") == 1
