"""The paper's statements judged by made-up results that make them hold, fail, and be unclear."""

from dataclasses import replace

import pytest

from resnets.models import zoo
from resnets.paper import claims
from resnets.paper.claims import CLAIMS
from resnets.paper.numbers import complexities
from resnets.paper.results import Results
from resnets.paper.store import Group, Outcome
from resnets.paper.verdicts import Sample, noise
from resnets.support.errors import UserError

BY_ID = {claim.id: claim for claim in CLAIMS}
CIFAR, PHOTOS = Group.of_folder("cifar10-short"), Group.of_folder("dogs-64-short")
FULL = Group.of_folder("cifar10-full")


def outcome(group, network, seed, kind, values, ending="", **identity):
    identity = {"network": network, "budget": "short", "seed": seed, **identity}
    group = Group.of_folder(str(group))
    return Outcome(group, f"{network}-seed{seed}{ending}", kind, identity, values, {})


def verdict_of(claim, outcomes, group=None):
    return claim.check(Results(outcomes), group)


def trained(group, network, *errors, train=None, **curves):
    """Trainings of a network, one for each test error, with the same training error."""
    return [
        outcome(
            group,
            network,
            seed,
            "training",
            {
                "iterations": 3000,
                "measured": {"error": error, "images": 10_000},
                "train_error": error if train is None else train,
                **curves,
            },
            plan={"batch": 128, "split": "50k/10k"},
        )
        for seed, error in enumerate(errors)
    ]


def ladder(group, networks, *, step=1.0, around=0.0):
    """Three seeds each, means `step` apart from 10 %, seeds `around` apart."""
    means = [10 + step * i for i in range(len(networks))]
    return [
        run
        for network, mean in zip(networks, means, strict=True)
        for run in trained(group, network, mean - around, mean, mean + around)
    ]


def rising(group, *networks):
    """Results for which a rising order holds, is reversed, and is lost in the noise."""
    return (
        ladder(group, networks, around=0.1),
        ladder(group, networks, step=-1.0, around=0.1),
        ladder(group, networks, step=0.1, around=1.0),
    )


def start(network, error, shallow):
    values = {"from": "x", "difference": 1e-5, "error": error, "shallow_error": shallow}
    return [
        outcome(f"{CIFAR}-deepened", network, seed, "deepened", values, ".start")
        for seed in range(3)
    ]


def missed(found):
    shallow = trained(CIFAR, "cifar-plain20", 9.9, 10, 10.1)
    deep = trained(CIFAR, "cifar-plain56", *found)
    return [*start("cifar-plain56", 10, 10), *shallow, *deep]


def kept(network, *after):
    return start(network, 10, 10) + trained(f"{CIFAR}-deepened", network, *after)


def signals(key, values, networks=("cifar-plain20", "cifar-plain56")):
    steps = {"0": [{key: 1.0}, {key: values[0]}], "100": [{key: 1.0}, {key: values[1]}]}
    return [outcome(CIFAR, n, 0, "signals", {"steps": steps}, ".signals") for n in networks]


def responses(*of):
    return [
        outcome(
            CIFAR, network, seed, "responses",
            {"statistics": "running", "responses": [{"std": value}, {"std": value / 2}]},
            ".responses",
        )
        for network, values in of
        for seed, value in enumerate(values)
    ]  # fmt: skip


def faster(*reached):
    """plain18 falls to 50 % at iteration 1500; resnet18-a at `reached`."""
    straight = [[0, 90.0], [1500, 50.0], [3000, 20.0]]
    plain = trained(PHOTOS, "plain18-small", 20, 20, 20, test_curve=straight)
    found = [
        replace(run, values={**run.values, "test_curve": [[0, 90.0], [step, 50.0], [3000, 20.0]]})
        for run, step in zip(trained(PHOTOS, "resnet18-a-small", 20, 20, 20), reached, strict=True)
    ]
    return plain + found


def rough(*epochs):
    return [
        run
        for epoch in epochs
        for run in trained(
            f"{CIFAR}-no-warmup", "cifar-resnet110", 10,
            train_curve=[[100, 90.5], [round(epoch * 391), 89.0]],
        )
    ]  # fmt: skip


def options(a, b, c):
    tests = zip(("plain34", "resnet34-a", "resnet34-b", "resnet34-c"), (30, a, b, c), strict=True)
    return [
        run
        for name, error in tests
        for run in trained(PHOTOS, name, error - 0.1, error, error + 0.1)
    ]


def plain110(*errors):
    return trained(CIFAR, "cifar-plain110", *errors)


def start_similar(*errors):
    return trained(CIFAR, "cifar-resnet110", 9.9, 10, 10.1) + trained(
        f"{CIFAR}-no-warmup", "cifar-resnet110", *errors
    )


def thousand(*errors):
    return [run for error in errors for run in trained(CIFAR, "cifar-resnet1202", 8, train=error)]


def each(*parts):
    """Several statements in one: all hold, all fail, all are unclear."""
    return tuple([run for part in column for run in part] for column in zip(*parts, strict=True))


P = [f"cifar-plain{depth}" for depth in (20, 32, 44, 56)]
R = [f"cifar-resnet{depth}" for depth in (20, 32, 44, 56, 110)]
ABOVE, BELOW, AROUND = (3.0, 3.1, 3.2), (1.0, 1.1, 1.2), (1.5, 2.0, 2.5)
CASES = {
    "degradation": rising(CIFAR, P[0], P[3]),
    "construction": (start(P[3], 10.02, 10), start(P[3], 10.2, 10), None),
    "construction-missed": (missed((12, 12.1, 12.2)), missed((8, 8.1, 8.2)), missed((5, 10, 16))),
    "construction-kept-plain": (
        kept(P[3], 9.9, 10, 10.1), kept(P[3], 11.9, 12, 12.1), kept(P[3], 5, 10, 16),
    ),
    "construction-kept-residual": (
        kept(R[3], 8.9, 9, 9.1), kept(R[3], 10.4, 10.4, 10.4), kept(R[3], 5, 10, 16),
    ),
    "plain-34-training": rising(PHOTOS, "plain18", "plain34"),
    "plain-34-validation": rising(PHOTOS, "plain18-small", "plain34-small"),
    "signals-forward": (
        signals("forward", (1, 0.5)), signals("forward", (1, 1e-3)),
        signals("forward", (1, 0.5), ["cifar-plain20"]),
    ),
    "signals-backward": (
        signals("gradient", (0.02, 50)), signals("gradient", (0.5, 1e-3)),
        signals("gradient", (0.02, 50), ["cifar-plain56"]),
    ),
    "resnet-34": rising(PHOTOS, "resnet34-a", "resnet18-a"),
    "residual-34": rising(PHOTOS, "resnet34-a", "plain34"),
    "residual-18": (
        ladder(PHOTOS, ["resnet18-a", "plain18"], step=0.2, around=0.1),
        ladder(PHOTOS, ["resnet18-a", "plain18"], step=3, around=0.1),
        ladder(PHOTOS, ["resnet18-a", "plain18"], step=1, around=1),
    ),
    "residual-18-faster": (
        faster(900, 1000, 1100), faster(1900, 2000, 2100), faster(1000, 1500, 2000),
    ),
    "options-beat-plain": (options(25, 25, 25), options(33, 33, 33), options(30, 30, 30)),
    "options-differ-little": (
        options(25, 24.6, 24.2), options(28, 27, 25), options(28, 27.5, 26.9),
    ),
    "options-order": (options(25, 24, 23), options(23, 24, 25), options(24, 23.9, 23.8)),
    "deeper-validation": rising(PHOTOS, "resnet152", "resnet101", "resnet50", "resnet34"),
    "deeper-training": rising(PHOTOS, "resnet152", "resnet101", "resnet50"),
    "plain-depth": rising(CIFAR, *P),
    "plain-depth-test": rising(CIFAR, *P),
    "plain-110": (plain110(85, 88, 90), plain110(20, 22, 24), plain110(58, 60, 63)),
    "residual-depth": rising(CIFAR, *reversed(R)),
    "residual-depth-training": rising(CIFAR, *reversed(R)),
    "residual-beats-plain": each(*(rising(CIFAR, R[i], P[i]) for i in range(4))),
    "start-late": (rough(3, 5), rough(0.5, 1), rough(1, 3)),
    "start-similar": (
        start_similar(9.9, 10, 10.1), start_similar(14, 14.1, 14.2), start_similar(5, 10, 16),
    ),
    "thin": rising(CIFAR, R[4], "cifar-highway19"),
    "responses-residual": tuple(
        responses((P[0], found), (R[0], (2, 2.05, 2.1)), (P[3], found), (R[3], (2, 2.05, 2.1)))
        for found in (ABOVE, BELOW, AROUND)
    ),
    "responses-depth": tuple(
        responses((R[0], found), (R[3], (2, 2.05, 2.1)), (R[4], (1.7, 1.71, 1.72)))
        for found in (ABOVE, BELOW, AROUND)
    ),
    "thousand-trains": (
        thousand(0.03, 0.04, 0.05), thousand(0.3, 0.4, 0.5), thousand(0.05, 0.1, 0.14),
    ),
    "thousand-overfits": rising(CIFAR, R[4], "cifar-resnet1202"),
}  # fmt: skip


def test_every_statement_that_needs_runs_has_its_cases():
    assert set(CASES) == {claim.id for claim in CLAIMS if claim.needs != "nothing"}
    assert len(BY_ID) == len(CLAIMS)


@pytest.mark.parametrize("name", CASES)
def test_a_statement_holds_fails_and_is_unclear(name):
    claim = BY_ID[name]
    group = PHOTOS if claim.needs == "photos" else CIFAR
    states = ("holds", "does not hold", "not clear")
    for state, outcomes in zip(states, CASES[name], strict=True):
        if outcomes is None:
            continue
        verdict = verdict_of(claim, outcomes, group)
        assert verdict.state == state, verdict.evidence
        assert str(group) in verdict.evidence
    assert verdict_of(claim, [], group).state == "not run"


def test_results_of_other_groups_and_variants_do_not_count():
    good = ladder(FULL, [P[0], P[3]])
    assert verdict_of(BY_ID["degradation"], good, FULL).state == "holds"
    assert verdict_of(BY_ID["degradation"], good, CIFAR).state == "not run"
    assert verdict_of(BY_ID["degradation"], good, PHOTOS).state == "not run"
    other = [run for name in (P[0], P[3]) for run in trained(f"{CIFAR}-no-warmup", name, 10)]
    assert verdict_of(BY_ID["degradation"], other, CIFAR).state == "not run"


def test_a_missing_depth_leaves_a_statement_unclear_and_is_named():
    verdict = verdict_of(BY_ID["plain-depth"], ladder(CIFAR, P[:3]), CIFAR)
    assert verdict.state == "not clear"
    assert "not run: cifar-plain56" in verdict.evidence


def test_one_seed_is_said_and_needs_a_larger_difference():
    def check(deep):
        runs = trained(CIFAR, P[0], 10.0) + trained(CIFAR, P[3], deep)
        return verdict_of(BY_ID["degradation"], runs, CIFAR)

    assert check(12).state == "holds"
    assert check(10.5).state == "not clear"
    assert check(12).evidence.count("one seed") == 4
    assert "3,000 iterations" in check(12).evidence


def test_noise():
    three, two = Sample("a", (9.0, 10.0, 11.0)), Sample("b", (9.0, 11.0))
    assert noise(three) == pytest.approx(4.30 / 3**0.5)  # t for 2 degrees of freedom
    pooled = ((2 * 1 + 1 * 2) / 3) ** 0.5
    assert noise(three, two) == pytest.approx(3.18 * pooled * (1 / 3 + 1 / 2) ** 0.5)
    assert noise(Sample("c", (6.61,))) == pytest.approx(2 * 0.16)
    assert noise(Sample("c", (50.0,), images=100)) == pytest.approx(2 * 5)


def test_a_small_training_error_of_one_seed_is_uncertain_by_the_images_it_was_counted_on():
    def check(log_every):
        runs = trained(CIFAR, R[4], 6, train=0.10) + trained(CIFAR, R[3], 6, train=0.12)
        for run in runs:
            run.identity["plan"]["log_every"] = log_every
        return BY_ID["residual-depth-training"].judge(Results(runs), CIFAR).evidence

    assert "+0.02 (noise 0.05)" in check(50)  # 5 readings of 50 batches of 128
    assert "+0.02 (noise 0.01)" in check(1000)


def test_a_network_is_not_faster_than_itself():
    level = [[500, 60.0], [1000, 49.0], [1400, 55.0], [1500, 50.0], [3000, 20.0]]
    runs = [
        run
        for name in ("plain18", "resnet18-a")
        for run in trained(PHOTOS, name, 20, 20, 20, test_curve=level)
    ]
    verdict = verdict_of(BY_ID["residual-18-faster"], runs, PHOTOS)
    assert verdict.state == "not clear", verdict.evidence
    assert "plain18 955 and 1,500," in verdict.evidence


def test_a_network_that_never_has_the_error_is_not_faster():
    runs = faster(900, 1000, 1100)
    for run in runs[3:]:
        run.values["test_curve"] = [[500, 90.0], [3000, 60.0]]
    verdict = verdict_of(BY_ID["residual-18-faster"], runs, PHOTOS)
    assert verdict.state == "does not hold"
    assert "resnet18-a 3,000 and 3,000" in verdict.evidence


def test_a_training_too_short_to_begin_does_not_show_a_late_start():
    def check(iterations):
        runs = rough(3)
        runs[0].values.update(iterations=iterations, train_curve=[[iterations, 90.5]])
        return verdict_of(BY_ID["start-late"], runs, CIFAR)

    assert check(400).state == "not clear"
    assert "not within 1.0 epochs" in check(400).evidence
    assert check(3000).state == "holds"


def test_trainings_of_different_lengths_are_not_judged():
    runs = ladder(CIFAR, [P[0], P[3]])
    assert verdict_of(BY_ID["degradation"], runs, CIFAR).state == "holds"
    runs[0].values["iterations"] = 400
    verdict = verdict_of(BY_ID["degradation"], runs, CIFAR)
    assert verdict.state == "not clear"
    assert "trainings of different lengths" in verdict.evidence
    assert "400 to 3,000 iterations" in verdict.evidence


def test_what_several_parts_lack_is_said_once():
    evidence = verdict_of(BY_ID["degradation"], trained(CIFAR, P[0], 10.0), CIFAR).evidence
    assert evidence == "not run: cifar-plain56"


def test_the_ten_crop_test_is_used_where_all_have_it():
    runs = trained(PHOTOS, "plain18", 30) + trained(PHOTOS, "plain34", 40)
    crops = [
        outcome(PHOTOS, name, 0, "test", {"error": error, "images": 5000}, ".ten-crop",
                views="ten-crop")
        for name, error in (("plain18", 28), ("plain34", 20))
    ]  # fmt: skip
    claim = BY_ID["plain-34-validation"]
    assert verdict_of(claim, runs, PHOTOS).state == "holds"
    assert verdict_of(claim, runs + crops[:1], PHOTOS).state == "holds"
    assert verdict_of(claim, runs + crops, PHOTOS).state == "does not hold"


def test_thin_compares_with_printed_errors_at_full_length_only():
    short, full = trained(CIFAR, R[4], 6.6, 6.7, 6.5), trained(FULL, R[4], 6.6, 6.7, 6.5)
    assert verdict_of(BY_ID["thin"], short, CIFAR).state == "not clear"
    assert verdict_of(BY_ID["thin"], full, FULL).state == "holds"
    assert "Highway-32, with more layers, 1.25M" in verdict_of(BY_ID["thin"], full, FULL).evidence


def test_counted_statements_hold_for_our_networks():
    for claim in CLAIMS:
        if claim.needs == "nothing":
            assert verdict_of(claim, []).state == "holds", claim.id
    assert "18.6 %" in verdict_of(BY_ID["cost-34"], []).evidence


@pytest.mark.parametrize(("name", "network"), [("cost-34", "resnet34-a"), ("cost-152", "resnet152"),
                                               ("twins", "plain34")])  # fmt: skip
def test_counted_statements_would_fail_for_others(name, network, monkeypatch):
    rows = complexities()
    rows[network] = replace(rows[network], multiply_adds=20 * 10**9)
    monkeypatch.setattr(claims, "complexities", lambda: rows)
    assert verdict_of(BY_ID[name], []).state == "does not hold"


def test_the_networks_of_all_statements_are_in_the_zoo():
    used = set()

    class Recording(Results):
        def runs(self, group, network=None, *args, **kwargs):
            used.add(network)
            return super().runs(group, network, *args, **kwargs)

    for claim in CLAIMS:
        claim.judge(Recording([]), CIFAR)
    assert {"cifar-resnet1202", "resnet152"} < used
    for name in used - {"cifar-highway19"}:
        zoo.architecture(name)


def test_a_damaged_result_is_one_line():
    run = trained(CIFAR, P[0], 10.0)[0]
    del run.values["train_error"]
    with pytest.raises(UserError, match=r"seed0\.json: 'train_error' is missing or malformed"):
        verdict_of(BY_ID["plain-depth"], [run], CIFAR)


@pytest.mark.parametrize("key", ["forward", "gradient"])
def test_a_layer_without_a_signal_is_damage(key):
    (run, *_) = signals(key, (0.5, 0.5))
    run.values["steps"]["100"][1] = {}
    statement = {"forward": "signals-forward", "gradient": "signals-backward"}[key]
    with pytest.raises(UserError, match=f"'steps, {key}' is missing or malformed"):
        verdict_of(BY_ID[statement], [run], CIFAR)


def test_without_results_a_statement_names_the_networks_to_run():
    verdict = verdict_of(BY_ID["plain-34-training"], [])
    assert (verdict.state, verdict.evidence) == ("not run", "not run: plain18, plain34")
