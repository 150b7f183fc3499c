"""What a person wants to know of a model: network, classes, preprocessing, errors, origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resnets.inference import export_folder
from resnets.support.files import cache_folder
from resnets.training import run_folder
from resnets.weights import hub
from resnets.weights.card import (
    DETECTION,
    LOCALIZATION,
    PRECISIONS,
    RUN_MODEL,
    measurements_of,
    provenance_of,
    read_card,
)


def find(name: str) -> dict[str, Any] | None:
    """The facts of a model, or of a run that has none yet; None if no model is called so.

    Nothing is downloaded: of a named source that is not in the cache, the facts are those of its
    entry in the list of sources.

    Raises:
        UserError: if `name` is a path without a model, or its file is damaged.
    """
    if export_folder.is_export(name):
        export = export_folder.read(Path(name))
        facts = _facts(name, export.file, export.card)
        return facts | {"engine": export.engine, "precision": export.precision}
    path = Path(name)
    if (path / "recipe.json").exists() and not (path / RUN_MODEL).exists():
        return _unfinished(path)
    if "@" in name and name in hub.sources():
        cached = cache_folder("weights", f"{name}.safetensors")
        if not cached.exists():  # showing a model must not fetch a hundred megabytes
            row = hub.sources()[name]
            return {
                "name": name,
                "network": row["network"],
                "origin": {"about": row["about"], "licence": row["licence"]},
                "downloaded": False,
            }
    elif not path.exists() and name not in hub.shipped() and "@" not in name:
        if path.suffix or "/" in name:
            hub.resolve(name)  # raises
        return None
    file = hub.resolve(name)
    return _facts(name, file, read_card(file)[0])


def _facts(name: str, file: Path, card: dict[str, Any]) -> dict[str, Any]:
    """What the card of a model says, without what a person would not read."""
    provenance = provenance_of(card)
    preprocessing = card["preprocessing"]
    measured = [
        {key: test[key] for key in ("dataset", "split", "protocol", "images", "error", "top5_error",
                                   *PRECISIONS, "localization_error", "top5_localization_error")
         if key in test}
        for test in measurements_of(card)
    ]  # fmt: skip
    trained = {
        key: provenance[key]
        for key in ("command", "recipe_hash", "finished", "hardware", "commit")
        if key in provenance
    }
    origin = {key: provenance[key] for key in ("source", "about", "licence") if key in provenance}
    return {
        "name": name,
        "network": card["network"],
        "file": str(file),
        "megabytes": round(file.stat().st_size / 1e6, 2),
        "classes": card["classes"],
        "preprocessing": {
            key: preprocessing[key] for key in ("size", "resize", "interpolation", "std")
            if key in preprocessing
        },
        **{key: card[key] for key in (DETECTION, LOCALIZATION) if key in card},
        "measured": measured,
        **({"trained": trained} if trained else {}),
        **({"origin": origin} if origin else {}),
    }  # fmt: skip


def _unfinished(folder: Path) -> dict[str, Any]:
    """A run that has no model yet."""
    recipe = run_folder.read_recipe(folder)
    last: dict[str, Any] = {}
    for line in run_folder.read_metrics(folder):
        last |= line
    return {
        "name": str(folder),
        "network": recipe.network,
        "run": {
            "iteration": last.get("step", 0),
            "of": recipe.steps,
            **{key: last[key] for key in ("train_error", "test_error", "test_AP50") if key in last},
        },
    }
