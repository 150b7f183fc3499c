"""Recipes: what is shipped, what is refused and how, and the learning rate they give."""

import re
from typing import get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from resnets.support.errors import UserError
from resnets.training import recipe_file as recipes
from resnets.training.recipe import Recipe, Schedule
from resnets.training.schedule import learning_rate, plateaus

MINIMAL = 'iterations = 100\n\n[schedule]\nkind = "linear"\nlr = 0.1\n'


NETWORKS = {
    "cifar10-paper": "cifar-resnet20",
    "cifar10-fast": "cifar-resnet20",
    "cifar10-short": "cifar-resnet20",
    "cifar10-smoke": "cifar-resnet20",
    "cifar100": "cifar-resnet20",
    "photos-short": "resnet18-a",
    "imagenet-paper": "resnet50",
    "imagenet-90": "resnet50",
    "imagenet-short": "resnet50-v1.5",
    "finetune": "",
    "detect-finetune": "",
    "detect-voc": "",
    "detect-coco": "",
    "segment-finetune": "",
    "localize": "",
    "localize-small": "",
}


def test_the_shipped_recipes_load():
    assert {name: recipes.load(name).network for name in recipes.shipped()} == NETWORKS


def test_an_option_of_its_own_is_named_in_errors():
    with pytest.raises(UserError, match="--network: unknown network 'cifar-resnt20'"):
        recipes.load("cifar10-paper", ["seed=2"], {"network": "cifar-resnt20"})


@pytest.mark.parametrize(
    ("setting", "option", "value", "line"),
    [
        ("network=cifar-resnet32", "network", "cifar-resnet20", "--network cifar-resnet20"),
        ("seed=2", "seed", 3, "--seed 3"),
        ("init=none", "init", "cifar-resnet20", "--init cifar-resnet20"),
        ("limit=100", "limit", 20, "--limit 20"),
        ("classes=5", "classes", 4, "--classes 4"),
    ],
)
def test_an_option_and_a_setting_must_not_contradict_each_other(setting, option, value, line):
    message = f"{line}: contradicts --set {setting}; give one of them"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        recipes.load("cifar10-paper", [setting], {option: value})
    same = recipes.load("cifar10-paper", [f"{option}={value}"], {option: value})
    assert getattr(same, option) == value
    assert same == recipes.load("cifar10-paper", [], {option: value})


@pytest.mark.parametrize(
    ("recipe", "setting"),
    [
        ("finetune", "photos.size=64"), ("finetune", "photos={size=64}"),
        ("detect-finetune", "detection.size=64"),
    ],
)  # fmt: skip
def test_an_image_size_and_a_setting_must_not_contradict_each_other(recipe, setting):
    with pytest.raises(UserError, match=r"--image-size 96: contradicts --set \w+\.size=64"):
        recipes.load(recipe, [setting], image_size=96)
    assert recipes.load(recipe, [setting], image_size=64)
    assert recipes.load(recipe, image_size=96) == recipes.load(recipe).at_size(96)


def _numbers(table, before=""):
    """The dotted keys of a recipe that hold numbers, and whether they hold a list of them."""
    for name, field in table.model_fields.items():
        kinds = {field.annotation, *get_args(field.annotation)}
        inner = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if inner is not None:
            yield from _numbers(inner, f"{before}{name}.")
        elif kinds & {int, float} or field.annotation is float:
            yield before + name, False
        elif any(get_origin(kind) is tuple for kind in kinds):
            yield before + name, True


UNLIMITED = {  # where a large number means `all`, `never` or `one pass`, or is compared with data
    "limit", "classes", "micro_batch", "recompute_bn", "log_every", "checkpoint_seconds",
    "schedule.patience", "schedule.gentle_start.from_depth",
}  # fmt: skip


@pytest.mark.parametrize(("key", "several"), list(_numbers(Recipe)))
def test_numbers_beyond_all_use_are_refused_by_their_range(key, several):
    def load(number):
        value = f"[{number},{number}]" if several else number
        base = {
            "optimizer.muon": "optimizer.muon={}",
            "schedule.gentle_start": "schedule.gentle_start={}",
            "progressive": "progressive={size=8,until=1}",
        }
        more = [base[table] for table in base if key.startswith(f"{table}.")]
        recipe = "detect-finetune" if key.startswith("detection") else "cifar10-paper"
        return recipes.load(recipe, [*more, f"{key}={value}"])

    def refusal(number):
        try:
            load(number)
        except UserError as error:
            return str(error)
        return ""

    for number in ("nan", "inf", "-inf", "-1", "-1e300"):
        assert refusal(number).startswith(f"--set {key}: "), number
    for number in ("1e300", "1" + "0" * 400):
        assert refusal(number).startswith(f"--set {key}: ") or key in UNLIMITED, number


def test_the_paper_recipe_is_section_4_2():
    paper = recipes.load("cifar10-paper")
    assert (paper.iterations, paper.batch, paper.split) == (64_000, 128, "50k/10k")
    assert (paper.optimizer.momentum, paper.optimizer.weight_decay) == (0.9, 1e-4)
    assert (paper.optimizer.nesterov, paper.optimizer.decay) == (False, "all")
    assert (paper.augment.pad, paper.augment.flip) == (4, "random")
    assert paper.label_smoothing == 0
    assert paper.progressive is None


@pytest.mark.parametrize(
    ("depth", "started", "rates"),
    [
        (20, None, {0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 1e-3, 63_999: 1e-3}),
        (56, None, {0: 0.1, 63_999: 1e-3}),
        (110, None, {0: 0.01, 399: 0.01, 40_000: 0.01}),
        (110, 400, {400: 0.1, 31_999: 0.1, 32_000: 0.01, 48_000: 1e-3}),
        (1202, 450, {450: 0.1, 63_999: 1e-3}),
    ],
)
def test_the_papers_learning_rates(depth, started, rates):
    schedule = recipes.load("cifar10-paper").schedule

    def rate(step):
        return learning_rate(schedule, step, iterations=64_000, depth=depth, gentle_end=started)

    for step, expected in rates.items():
        assert rate(step) == pytest.approx(expected)


@given(
    kind=st.sampled_from(["steps", "linear", "cosine"]),
    iterations=st.integers(1, 500),
    warmup=st.integers(0, 600),
    lr=st.floats(1e-4, 10),
)
def test_rates_stay_between_zero_and_the_peak(kind, iterations, warmup, lr):
    schedule = Schedule(kind=kind, lr=lr, warmup=warmup)
    rates = [learning_rate(schedule, s, iterations=iterations, depth=20) for s in range(iterations)]
    assert all(0 < rate <= lr * (1 + 1e-9) for rate in rates)
    rising = rates[: warmup + 1]
    assert rising == sorted(rising)
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_a_plateau_is_some_tests_without_a_lower_error():
    falling = [(10 * i, 50.0 - i) for i in range(1, 11)]
    assert plateaus(falling, 2) == []
    flat = [*falling, (110, 40.0), (120, 39.9), (130, 39.9), (140, 39.9)]
    assert plateaus(flat, 2) == [120, 140]
    assert plateaus([*flat, (150, 20.0), (160, 20.0)], 2) == [120, 140]


def test_the_rate_falls_at_a_plateau():
    schedule = Schedule(kind="plateau", lr=0.1, patience=1)
    errors = [(100, 50.0), (200, 50.0)]
    rates = [
        learning_rate(schedule, step, iterations=1000, depth=20, errors=errors)
        for step in (150, 200, 900)
    ]
    assert rates == pytest.approx([0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "speed = 3\n", r"line 6: unknown key 'schedule.speed'"),
        ("iteratons = 5\n" + MINIMAL, r"line 1: unknown key 'iteratons'; did you mean iterations"),
        (
            MINIMAL.replace("100", '"many"'),
            r"line 1: iterations: .*whole number, not 'many'",
        ),
        (MINIMAL.replace("100", "-5"), r"line 1: iterations: .*at least 1, not -5"),
        (MINIMAL.replace('"linear"', '"lineal"'), r"line 4: schedule.kind: .*'linear'"),
        (MINIMAL + "drops = [5, 3]\n", r"schedule: drops must rise"),
        (MINIMAL + "drops = [3, 5]\n", r"drops belong to kind = 'steps'"),
        (MINIMAL.replace("lr = 0.1\n", ""), r"key 'schedule.lr' is missing"),
        ("x = [1,\n", r"not valid TOML"),
        ('"a[0]" = 1\n' + MINIMAL, r"unknown key 'a\[0\]'"),
        ('network = "cifar-resnet21"\n' + MINIMAL, r"line 1: network: .*cifar-resnet20"),
        ('network = "resnet50"\n' + MINIMAL, r"made for 224-pixel photographs"),
        ("compile = 3\n" + MINIMAL, r"line 1: compile: "),
        (MINIMAL + "[optimizer]\nnesterov = true\nmomentum = 0.0\n", r"nesterov needs a momentum"),
        (MINIMAL + "[optimizer]\nmomentums = 0.9\n", r"line 7: .*did you mean momentum"),
        (MINIMAL + "[progressive]\nsze = 24\nuntil = 5\n", r"'progressive.(sze|size)'"),
    ],
)
def test_a_bad_recipe_is_one_line_with_file_line_and_hint(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        recipes.load(str(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + f'network = "cifar-resnet20"\n{MINIMAL}'.encode())
    assert recipes.load(str(path)).iterations == 100
    path.write_text(MINIMAL, encoding="utf-16")
    with pytest.raises(UserError, match="save it as UTF-8"):
        recipes.load(str(path))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cifar10-papr", [], "unknown recipe.*did you mean cifar10-paper"),
        ("none.toml", [], "none.toml: no such file; shipped recipes: "),
        ("cifar10-paper", ["batch"], "not of the form key=value"),
        ("cifar10-paper", ["batch=big"], "--set batch: should be a whole number, not 'big'"),
        (
            "cifar10-paper",
            ["schedule.lrr=1.0"],
            "--set schedule.lrr: unknown key.*did you mean schedule.lr",
        ),
        ("cifar10-paper", ["batch.size=3"], "batch.size=3: batch has no keys below it; write"),
        ("imagenet-paper", ["init.foo=3"], "init has no keys below it; write --set init="),
        ("cifar10-paper", ["schedule.lr.x.y=3"], "schedule.lr has no keys below it; write"),
        ("cifar10-paper", ["photos.size.x=3"], "photos.size has no keys below it; write"),
        ("cifar10-paper", ["strict=true"], "--set strict: unknown key 'strict'"),
        ("cifar10-paper", ["augment.strict=3"], "--set augment.strict: unknown key"),
        ("cifar10-paper", ["bools=1"], "--set bools: unknown key"),
        ("cifar10-paper", ["compile=3"], "--set compile: "),
        ("cifar10-paper", ["compile=True"], "should be .auto., true or false"),
        ("cifar10-paper", ["checkpoint_seconds=inf"], "finite"),
        ("cifar10-paper", ["network=vgg16"], "for comparison only"),
        ("cifar10-paper", ["network=resnet50"], "made for 224-pixel photographs"),
        ("cifar10-paper", ["network=plain18-small"], "made for 64-pixel photographs"),
        ("cifar10-paper", ["epochs=3"], "length in iterations; add --set iterations=none"),
        ("finetune", ["iterations=3"], "length in epochs; add --set epochs=none"),
        ("cifar10-paper", ["iterations=none"], "either iterations or epochs"),
        ("cifar10-paper", ["lr=0.05"], r"unknown key 'lr'; did you mean schedule.lr\?"),
        ("cifar10-paper", ["drops=[]"], r"did you mean schedule.drops\?"),
        ("cifar10-paper", ["schedule.drops=1,2"], r"write --set 'schedule.drops=\[1,2\]'"),
        ("cifar10-paper", ["schedule.warmup=x"], "should be a number, not 'x'"),
        ("cifar10-paper", ["photos.areas=[1]"], "has too few numbers"),
        ("cifar10-paper", ["schedule.lr=200"], "should be at most 100"),
        ("cifar10-paper", ["network="], "key 'network' is missing"),
        ("cifar10-paper", ["test_every=0.5"], "whole iterations"),
        ("cifar10-paper", ["progressive.size=40", "progressive.until=3"], "32 pixels a side"),
        ("cifar10-paper", ["batch_norm=frozen"], "needs the statistics of an init"),
        ("finetune", ["recompute_bn=100"], "leaves nothing to recompute_bn"),
        ("imagenet-short", ["photos.size=64"], "the images have 64 pixels a side"),
        ("imagenet-paper", ["photos.test_size=256"], "needs tests of the training's size"),
        ("cifar10-paper", ["network=cifar-resnt20"], "did you mean .*cifar-resnet20"),
        ("cifar10-fast", ["optimizer.muon=nonee"], "--set optimizer.muon: .*a table, or none, not"),
        ("cifar10-fast", ["optimizer.muon=false"], "--set optimizer.muon: .*a table, or none, not"),
        ("cifar10-fast", ["optimizer.muno=none"], "'optimizer.muno'; did you mean optimizer.muon"),
        ("cifar10-fast", ["optimizer=none"], "--set optimizer: should be a table, not 'none'"),
        ("cifar10-fast", ["progressive=none", "progressive.size=16"], "progressive is not a table"),
        ("cifar10-fast", ["batch=none"], "--set batch: .*whole number"),
    ],
)
def test_bad_names_and_settings(name, settings, message):
    with pytest.raises(UserError, match=message):
        recipes.load(name, settings)


def refuse(name, settings):
    recipes.refuse_unfit_counts(name, settings, recipes.load(name, settings))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "cifar10-fast",
            ["iterations=60"],
            r"warmup = 1125, progressive.until = 5860: beyond the end .*\(60 iterations\); in the "
            "same proportion: --set schedule.warmup=7 --set progressive.until=38",
        ),
        (
            "cifar10-paper",
            ["iterations=6400"],
            r"schedule.drops = \[32000,48000\]: beyond .* --set 'schedule.drops=\[3200,4800\]'",
        ),
        (
            "cifar10-fast",
            ["iterations=none", "epochs=2"],
            "test_every = 1875: in iterations, but the length is in epochs now; .* --set "
            "schedule.warmup=0.24 --set progressive.until=1.25 --set test_every=0.4",
        ),
        (
            "finetune",
            ["epochs=none", "iterations=800", "schedule.warmup=20"],
            "finetune: test_every = 2: in epochs, but .* --set test_every=200",
        ),
        ("cifar10-paper", ["schedule.drops=[9, 64000]"], "beyond .* give smaller ones, or more"),
        ("finetune", ["epochs=1", "schedule.warmup=2"], r"the training \(1 epoch\)"),
    ],
)
def test_counts_that_a_changed_length_leaves_behind_are_refused(name, settings, message):
    with pytest.raises(UserError, match=message):
        refuse(name, settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, []) for name in NETWORKS),
        ("cifar10-fast", ["iterations=18750"]),
        ("cifar10-fast", ["iterations=60", "schedule.warmup=60", "progressive=none"]),
        ("cifar10-paper", ["iterations=60", "schedule.drops=[]"]),
        (
            "finetune",
            [
                "epochs=none",
                "iterations=99",
                "test_every=9",
                'schedule={kind="cosine", lr=0.1, warmup=1}',
            ],
        ),
    ],
)
def test_counts_that_fit_are_accepted(name, settings):
    refuse(name, settings)


def test_the_settings_that_the_error_names_are_accepted():
    settings = ["iterations=none", "epochs=2"]
    with pytest.raises(UserError) as caught:
        refuse("cifar10-fast", settings)
    refuse("cifar10-fast", settings + re.findall(r"--set (\S+)", caught.value.hint))


def test_none_unsets_optional_keys():
    settings = [
        "optimizer.muon=none",
        "progressive=none",
        "ema=none",
        "iterations=none",
        "epochs=3",
    ]
    changed = recipes.load("cifar10-fast", settings)
    assert changed.optimizer.muon is None
    assert changed.progressive is None
    assert changed.ema is None
    assert (changed.iterations, changed.epochs) == (None, 3)
    assert recipes.load("finetune", ['init="none"']).init == "none"


def test_settings_change_keys_of_any_kind():
    changed = recipes.load(
        "cifar10-paper",
        ["network=cifar-plain20", "batch=64", "schedule.lr=0.05", "schedule.drops=[10, 20]",
         "compile=true", "precision=fp32", "progressive.size=16", "progressive.until=7"],
    )  # fmt: skip
    assert (changed.network, changed.batch, changed.schedule.lr) == ("cifar-plain20", 64, 0.05)
    assert changed.schedule.drops == (10, 20)
    assert (changed.compile, changed.precision) == (True, "fp32")
    assert changed.progressive is not None
    assert changed.progressive.size == 16


def test_json_restores_a_recipe_and_the_hash_covers_what_matters():
    paper = recipes.load("cifar10-paper")
    assert Recipe.model_validate_json(paper.model_dump_json()) == paper
    same = recipes.load("cifar10-paper", ["checkpoint_seconds=5"])
    assert same.content_hash() == paper.content_hash()
    for setting in ("seed=1", "batch=64", "schedule.lr=0.2", "log_every=10"):
        assert recipes.load("cifar10-paper", [setting]).content_hash() != paper.content_hash()


HASHES_V1 = {
    "cifar10-fast": "ca74b8cf2837c74c",
    "cifar10-paper": "1c42286c5935b3bc",
    "cifar10-short": "469291ceb965520f",
    "cifar10-smoke": "cb7b16c4cf1a8001",
    "finetune": "084a88ae41d926f5",
    "imagenet-90": "00097486714cbf14",
    "imagenet-paper": "17a3a66fe50582e6",
    "imagenet-short": "11524135614b40fb",
    "photos-short": "c2d9d6d52a0688e6",
}
"""What version 0.1.0 wrote into run folders and checkpoints."""


@pytest.mark.parametrize(("name", "stored"), HASHES_V1.items())
def test_hashes_of_version_1_are_recognised(name, stored):
    recipe = recipes.load(name)
    assert recipe.matches(stored)
    assert recipe.matches(recipe.content_hash())
    assert not recipes.load(name, ["seed=7"]).matches(stored)
    assert not recipe.matches(HASHES_V1["cifar10-paper" if name != "cifar10-paper" else "finetune"])


@pytest.mark.parametrize(
    ("name", "settings", "stored"),
    [
        (
            "cifar10-paper",
            ["graphs=true", "kernels=false", "seed=3"],
            "e606ddb785d03deb",
        ),
        ("cifar10-fast", ["optimizer.muon=none"], "eefe4d7964f3ca45"),
        ("imagenet-paper", ["photos.bad_images=0.5"], "17a3a66fe50582e6"),
    ],
)
def test_hashes_of_version_1_with_settings_are_recognised(name, settings, stored):
    assert recipes.load(name, settings).matches(stored)


def test_the_hash_names_its_version_and_covers_what_differs_from_the_defaults():
    paper = recipes.load("cifar10-paper")
    assert paper.content_hash().startswith("2-")
    stated = recipes.load("cifar10-paper", ["graphs=false", "photos.size=224", "ema=none"])
    assert stated.content_hash() == paper.content_hash()
    lenient = recipes.load("cifar10-paper", ["photos.bad_images=0.5"])
    assert lenient.content_hash() == paper.content_hash()
    for setting in ("optimizer.muon.lr=0.03", "photos.colour=0", "optimizer.momentum=0.8"):
        assert recipes.load("cifar10-paper", [setting]).content_hash() != paper.content_hash()
