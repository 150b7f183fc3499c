"""What was found for explained images: as JSON, and as a page of the pictures."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resnets.analysis.activation_maps import StageMap
from resnets.inference.neighbours import Nearest


@dataclass(frozen=True)
class Explained:
    """What was found for one image file, or why nothing was.

    Args:
        image: the file, as it was named.
        name: of the class that is explained.
        index: of this class.
        probability: of this class.
        top: the most probable classes with their probabilities.
        stages: of the explanation.
        files: names of the pictures in the folder, by what they show.
        nearest: images of another folder that are like it, if they were asked for.
        error: why the image could not be read.
    """

    image: str
    name: str = ""
    index: int = -1
    probability: float = 0.0
    top: tuple[tuple[str, float], ...] = ()
    stages: tuple[StageMap, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    nearest: Nearest | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON; the maps themselves are in the pictures."""
        if self.error is not None:
            return {"image": self.image, "error": self.error}
        facts: dict[str, Any] = {
            "image": self.image,
            "class": self.name,
            "index": self.index,
            "probability": self.probability,
            "top": [{"class": name, "probability": chance} for name, chance in self.top],
            "stages": [_facts(stage) for stage in self.stages],
            "files": dict(self.files),
        }
        if self.nearest is not None:
            facts["nearest"] = [neighbour.as_dict() for neighbour in self.nearest.neighbours]
            facts["itself_left_out"] = self.nearest.itself
        return facts


def _facts(stage: StageMap) -> dict[str, Any]:
    height, width = stage.values.shape
    return {
        "stage": stage.stage,
        "method": stage.method,
        "height": height,
        "width": width,
        "channels": stage.channels,
        "mean": round(stage.mean, 5),
        "deviation": round(stage.deviation, 5),
        "active": round(stage.active, 5),
    }


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem}"
    "img{max-width:100%;height:auto;display:block;margin:.5rem 0}section{margin-bottom:2.5rem}"
    "h1,h2,p{overflow-wrap:anywhere}h2{font-size:1.15rem;margin-bottom:0}p{margin:0;color:#555}"
)


def page(network: str, done: Sequence[Explained]) -> str:
    """A page with all sheets; it needs nothing but the pictures beside it."""
    parts = []
    for one in done:
        title = f"<h2>{html.escape(one.image)}</h2>"
        if one.error is not None:
            parts.append(f"<section>{title}<p>{html.escape(one.error)}</p></section>")
            continue
        top = ", ".join(f"{name} {100 * chance:.1f} %" for name, chance in one.top)
        about = f"<p>Explained: {html.escape(one.name)}. Answers: {html.escape(top)}.</p>"
        whole = "stages" in one.files
        shown = {k: v for k, v in one.files.items() if not whole or k in ("stages", "nearest")}
        pictures = "".join(
            f'<a href="{file}"><img src="{file}" alt="{html.escape(f"{what} of {one.image}")}"></a>'
            for what, file in shown.items()
        )
        parts.append(f"<section>{title}{about}{pictures}</section>")
    name = html.escape(network)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>What {name} looks at</title><style>{_STYLE}</style></head><body>"
        f"<h1>What {name} looks at</h1>{''.join(parts)}</body></html>\n"
    )
