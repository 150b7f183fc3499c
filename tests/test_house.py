"""The house keeps its order: imports run downhill, words are plain, docs tell the truth."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tools import tables

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "resnets").rglob("*.py"))
FLOORS = {
    "support": 0, "models": 1, "kernels": 2, "data": 2, "weights": 3, "evaluation": 4,
    "analysis": 4, "training": 5, "doctor": 5, "detection": 6, "inference": 7, "paper": 8,
    "export": 8, "serve": 8, "cli": 9,
}  # fmt: skip
BARE = {
    "torch",
    "torchvision",
    "numpy",
    "PIL",
    "pydantic",
    "pydantic_core",
    "safetensors",
    "filelock",
}


def imports(path):
    """Modules that a file imports, and whether at the top of the file."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "resnets" or (node.module or "").count(".") == 1:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, node in tree.body


def floor(path):
    return FLOORS.get(path.relative_to(ROOT / "resnets").parts[0])


def each_source(function):
    return pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))(
        function
    )


@each_source
def test_imports_run_downhill(path):
    mine = floor(path)
    if mine is None:
        return
    for name, _ in imports(path):
        parts = name.split(".")
        if parts[0] == "resnets" and len(parts) > 1 and parts[1] in FLOORS:
            own = parts[1] == path.relative_to(ROOT / "resnets").parts[0]
            level = FLOORS[parts[1]]
            assert own or level < mine, f"{path} imports {name}"
        assert parts[0] not in ("benchmarks", "tools", "tests"), f"{path} imports {name}"


def module_of(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def module_graph():
    """The modules that each module imports, lazy imports included."""
    known = {module_of(path) for path in SOURCES}
    graph = {}
    for path in SOURCES:
        graph[module_of(path)] = targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names} & known
            elif isinstance(node, ast.ImportFrom) and node.module:
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= (whole & known) or ({node.module} & known)
    return graph


def test_no_module_imports_itself_by_way_of_others():
    graph, done = module_graph(), set()

    def visit(module, way):
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, [*way, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])


@each_source
def test_the_training_path_needs_no_more_than_a_gpu_image_has(path):
    bare = (
        "support", "kernels", "models", "data", "weights", "training", "evaluation", "analysis",
        "detection",
    )  # fmt: skip
    if path.relative_to(ROOT / "resnets").parts[0] not in bare:
        return
    for name, at_top in imports(path):
        package = name.split(".")[0]
        if at_top and package not in sys.stdlib_module_names:
            assert package in BARE | {"resnets"}, f"{path} imports {package}"


def test_training_imports_where_everything_else_is_missing():
    code = (
        "import sys\n"
        "for name in ('typer', 'click', 'rich', 'tensorboard', 'matplotlib', 'pytest'):\n"
        "    sys.modules[name] = None\n"
        "import resnets.training.run, resnets.evaluation.results, resnets.weights.model_file\n"
        "import resnets.analysis.figures, resnets.analysis.deepen, resnets.analysis.inputs\n"
        "from resnets.training.run_folder import _event_writer\n"
        "from pathlib import Path\n"
        "assert _event_writer(Path('nowhere'), 0) is None\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@each_source
def test_files_hold_one_concept(path):
    assert len(path.read_text().splitlines()) <= 700


WORDS = (
    "mend", "mends", "mended", "wishes", "heeded", "artefact", "artefacts", "could be had",
    "was had", "goes on with", "gone on with", "beside it", "asked for by", "foreign", "tells of",
)  # fmt: skip
"""What DESIGN's readers stumbled over; hint, options, applied, export, resumes, imported say it."""


@each_source
def test_words_are_the_fields_own(path):
    text = path.read_text()
    if path.name == "problems.py":  # the deprecated key of problem documents
        text = re.sub(r"\bmend\b", "", text)
    found = [word for word in WORDS if re.search(rf"\b{word}\b", text, re.IGNORECASE)]
    assert not found


@pytest.mark.parametrize("document", tables.PAGES)
def test_tables_in_the_docs_are_the_generated_ones(document):
    text = (ROOT / document).read_text("utf-8")
    blocks = re.findall(r"<!-- table: (\w+) -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert blocks
    for name, table in blocks:
        assert table == tables.TABLES[name](), f"{document}: run python -m tools.tables"


def test_the_package_data_hold_every_file_that_is_not_python():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["packages"]["find"]["include"] == ["resnets*"]  # no benchmarks, no tools
    package = ROOT / "resnets"
    shipped = {p for glob in settings["package-data"]["resnets"] for p in package.glob(glob)}
    files = {p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert {p for p in files if p.suffix != ".py"} <= shipped


def test_importing_the_package_imports_no_more_than_the_standard_library():
    code = (
        "import sys, resnets; resnets.list_models\n"
        "heavy = {'torch', 'numpy', 'PIL', 'typer', 'pydantic', 'openvino'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
