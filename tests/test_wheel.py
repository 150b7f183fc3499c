"""The wheel holds the whole package and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_wheel_has_every_file_of_the_package(tmp_path):
    pytest.importorskip("setuptools", "77")
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "resnets", source / "resnets", ignore=ignored)
    shutil.copytree(ROOT / "tools", source / "tools", ignore=ignored)  # must stay outside
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    built = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        (entry,) = (name for name in file.namelist() if name.endswith("entry_points.txt"))
        assert "resnets = resnets.__main__:main" in file.read(entry).decode()
    package = source / "resnets"
    expected = {str(path.relative_to(source)) for path in package.rglob("*") if path.is_file()}
    assert names == expected
    for kind in (
        "training/recipes/*.toml", "serve/page/*", "kernels/*.cpp", "kernels/*.h",
        "weights/shipped/*.safetensors", "inference/samples/*.png", "py.typed",
    ):  # fmt: skip
        assert any(Path(name).match(f"resnets/{kind}") for name in names), kind
