"""Made-up outcomes of every kind, with plausible numbers."""

import math
import random

from resnets.paper.store import Group, Outcome

WHOLE = {"full": 64_000, "short": 3_000, "smoke": 400}
FINAL = {  # test error, training error
    "cifar-plain20": (9.7, 1.3), "cifar-plain32": (10.2, 1.5), "cifar-plain44": (11.4, 2.7),
    "cifar-plain56": (13.1, 5.8), "cifar-plain110": (65.0, 64.0), "cifar-resnet20": (8.7, 0.7),
    "cifar-resnet32": (7.6, 0.3), "cifar-resnet44": (7.2, 0.2), "cifar-resnet56": (7.0, 0.1),
    "cifar-resnet110": (6.6, 0.1), "cifar-resnet1202": (7.9, 0.05),
    "plain18": (28.1, 31.0), "plain34": (28.7, 32.5), "resnet18-a": (28.0, 30.0),
    "resnet34-a": (25.2, 24.7),
}  # fmt: skip
PROVENANCE = {
    "command": "resnets train cifar10-paper --network <b>&",
    "recipe_hash": "f429998941fe754b",
    "commit": "7791df4f9004962c235b9cdcb9735d4321bfc396",
    "hardware": "Made-up processor, 2 cores",
    "threads": 2,
    "seconds": 1539.4,
    "finished": "2026-11-23T21:28:31+00:00",
    "packages": {"torch": "2.15.0", "numpy": "2.4.6"},
}


def outcome(key, kind, values, network, budget, seed, **identity):
    identity = {"network": network, "budget": budget, "seed": seed, **identity}
    folder, _, name = key.partition("/")
    return Outcome(Group.of_folder(folder), name, kind, identity, values, PROVENANCE)


def training(network, budget="full", seed=0, group=None, images=10_000, points=120):
    """A training whose curves fall in steps."""
    drawn = random.Random(f"{network} {budget} {seed} {group}")
    group = group or f"cifar10-{budget}"
    photos = not network.startswith("cifar-")
    whole = 600_000 if photos and budget == "full" else WHOLE[budget]
    name = network.removesuffix("-small")
    test, train = (error + drawn.gauss(0, 0.1) for error in FINAL.get(name, (9.0, 2.0)))
    extra = 0 if budget == "full" else 15
    test, train = test + extra, max(train, 0.02) + extra

    def at(fraction, final, start=88.0):
        drops = 1 if fraction > 0.75 else 1.05 if fraction > 0.5 else 1.6
        fall = math.exp(-fraction * 25)
        return min(start, final * drops + 2 * (drops - 1) + (start - final) * fall) + drawn.gauss(
            0, 0.15 * drops**4
        )

    steps = [round(whole * (i + 1) / points) for i in range(points)]
    values = {
        "iterations": whole,
        "measured": {
            "dataset": "photos" if photos else "cifar10",
            "protocol": "center" if photos else "single view of the original 32x32 image",
            "images": images,
            "wrong": round(images * test / 100),
            "error": test,
            "error_interval": [test - 0.5, test + 0.5],
            "top5_error": test / 3,
        },
        "train_error": train,
        "train_loss": train / 30,
        "train_curve": [[s, max(0.0, at(s / whole, train))] for s in steps],
        "test_curve": [[s, at(s / whole, test)] for s in steps[3::4]],
        "loss_curve": [[s, at(s / whole, train) / 30] for s in steps],
        "rate_curve": [[s, 0.1] for s in steps],
    }
    return outcome(f"{group}/{network}-seed{seed}", "training", values, network, budget, seed)


def shown(network, views, budget="full", seed=0, group="imagenet-224-full", images=50_000):
    error = FINAL.get(network.removesuffix("-small"), (24.0, 1.0))[0] - 0.2
    values = {
        "protocol": views, "images": images, "error": error, "top5_error": error / 3.3,
        "error_interval": [error - 0.4, error + 0.4],
    }  # fmt: skip
    key = f"{group}/{network}-seed{seed}.{views}"
    return outcome(key, "test", values, network, budget, seed, views=views)


def ensemble(group="imagenet-224-full", budget="full"):
    values = {"protocol": "dense", "images": 50_000, "error": 19.0, "top5_error": 4.1}
    key = f"{group}/ensemble-seed0.dense"
    return outcome(
        key, "ensemble", values, "ensemble", budget, 0, networks=["resnet50", "resnet101"]
    )


def responses(network, budget="full", seed=0):
    layers = int("".join(c for c in network if c.isdigit())) - 1
    plain = "plain" in network
    drawn = random.Random(network)
    stds = [
        (1.6 if plain else 0.8) + (1.5 if i == 0 else 0) + 0.5 * drawn.random()
        + (0 if plain else 0.6 * (i % 2))
        for i in range(layers)
    ]  # fmt: skip
    values = {
        "statistics": "running", "images": "1,000 of the 10,000 test images of CIFAR-10",
        "responses": [{"layer": f"l{i}", "stage": 1, "std": s} for i, s in enumerate(stds)],
    }  # fmt: skip
    key = f"cifar10-{budget}/{network}-seed{seed}.responses"
    return outcome(key, "responses", values, network, budget, seed)


def signals(network, budget="full", seed=0):
    layers = int("".join(c for c in network if c.isdigit())) - 1
    steps = {
        str(step): [
            {"layer": f"l{i}", "forward": 1 + 0.02 * i + 0.1 * n,
             "gradient": 1e-3 * math.exp(-0.02 * (layers - i)) / (1 + n), "weight_gradient": 0.1}
            for i in range(layers)
        ]
        for n, step in enumerate((0, 100, 1000))
    }  # fmt: skip
    key = f"cifar10-{budget}/{network}-seed{seed}.signals"
    return outcome(key, "signals", {"steps": steps}, network, budget, seed)


def deepened(network="cifar-plain56", start="cifar-plain20", budget="short"):
    values = {"from": start, "difference": 1.9e-6, "error": 24.9, "shallow_error": 24.9}
    key = f"cifar10-{budget}-deepened/{network}-seed0.start"
    return outcome(key, "deepened", values, network, budget, 0)


def cifar(budget="full", seeds=1):
    """A whole budget on CIFAR-10."""
    networks = [name for name in FINAL if name.startswith("cifar-") and name != "cifar-plain110"]
    found = [training(n, budget, seed) for n in networks for seed in range(seeds)]
    for name in ("plain20", "plain56", "resnet20", "resnet56", "resnet110"):
        found.append(responses(f"cifar-{name}", budget))
    return [*found, signals("cifar-plain56", budget), signals("cifar-resnet56", budget)]


def photos(group="imagenet-224-full", budget="full", small="", images=50_000):
    """A whole budget on photographs."""
    found = [ensemble(group, budget)]
    for name in ("plain18", "plain34", "resnet18-a", "resnet34-a"):
        found.append(training(name + small, budget, group=group, images=images))
        found.append(shown(name + small, "ten-crop", budget, group=group, images=images))
    if not small:
        for name in ("resnet50", "resnet101"):
            found.append(shown(name, "ten-crop", budget, group=group))
            found.append(shown(name, "dense", budget, group=group))
    return found


def everything():
    """Every kind, several budgets and seeds."""
    short = [training(n, "short", seed) for n in FINAL if "cifar" in n for seed in range(3)
             if n not in ("cifar-plain44", "cifar-resnet1202")]  # fmt: skip
    variants = [
        training("cifar-resnet110", "short", 0, "cifar10-short-no-warmup"),
        training("cifar-plain56", "short", 0, "cifar10-short-deepened"),
        deepened(),
    ]
    small = photos("photos <1>-64-short", "short", "-small", 400)
    return [*cifar(), *short, *variants, responses("cifar-resnet20", "short"), *photos(), *small]
