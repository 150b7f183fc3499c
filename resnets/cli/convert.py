"""`resnets convert`."""

from __future__ import annotations

from pathlib import Path

from resnets.weights import hub
from resnets.weights.convert import formats


def convert(source: str, out: Path, network: str | None, to: str | None) -> None:
    """Read weights of any known kind, write them as another, say what was done."""
    kind = formats.output_format(out, to)
    path = Path(source) if Path(source).exists() else hub.resolve(source)
    formats.refuse_overwriting(path, out, kind)
    model = formats.read(path, network)
    files = formats.write(model, out, kind)
    look = model.preprocessing
    print(f"{model.card['network']} with {len(model.classes):,} classes, as {kind}:")
    for file in files:
        print(f"  {file}")
    print(
        f"images: shorter side {look.resize}, centre {look.size}, {look.interpolation}; "
        f"mean {_numbers(look.mean)}, deviation "
        f"{'none' if look.std is None else _numbers(look.std)}"
    )


def _numbers(values: object) -> str:
    import torch

    assert isinstance(values, torch.Tensor)
    return " ".join(f"{v:.4f}" for v in values.mean((1, 2)).tolist())
