"""Whether int8 is worth it on this machine."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from resnets.inference.engines import OpenVinoRuntime, Runtime
from resnets.support.devices import hardware_name, has_bf16
from resnets.support.timing import throughput

BATCHES = (1, 16)
CPU = torch.device("cpu")


def compare(peer: Runtime, engine: Runtime, size: int) -> dict[str, Any]:
    """Images per second of int8 and of the same engine in float32 or bf16; what that means."""
    shape = (max(BATCHES), 3, size, size)
    pixels = torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    rates: dict[str, dict[str, float]] = {peer.name: {}, engine.name: {}}
    for batch in BATCHES:
        runs = {one.name: partial(one, pixels[:batch]) for one in (peer, engine)}
        for name, values in throughput(runs, batch, rounds=3, seconds=0.5).items():
            rates[name][str(batch)] = float(f"{sorted(values)[1]:.4g}")
    factors = [rates[engine.name][batch] / rates[peer.name][batch] for batch in rates[peer.name]]
    told = " and ".join(
        f"{factor:.2f} x at batch {batch}"
        for factor, batch in zip(factors, rates[peer.name], strict=True)
    )
    plain = peer.name.split()[-1].replace("fp32", "float32")
    if min(factors) >= 1:
        verdict = f"int8 is faster than {plain} on this machine: {told}"
    elif max(factors) < 1:
        verdict = f"int8 is SLOWER than {plain} on this machine: {told}"
    else:
        verdict = f"int8 is not always faster than {plain} on this machine: {told}"
    if plain != "bf16" and has_bf16(CPU) and isinstance(engine, OpenVinoRuntime):
        verdict += "; this CPU multiplies bf16 too, which loses less: compare with that"
    hardware = hardware_name(CPU)
    return {"images_per_second": rates, "verdict": verdict, "hardware": hardware}
