"""Builds and runs the students' notebook: `python -m tools.notebook` (packages: `resnets[docs]`).

Its source is `tools/degradation_notebook.py`, cells separated by `# %%`. The result with all its
outputs is `docs/tutorials/degradation.ipynb`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "tools" / "degradation_notebook.py"
NOTEBOOK = ROOT / "docs" / "tutorials" / "degradation.ipynb"


def cells() -> list[tuple[str, str]]:
    """Kind (`markdown` or `code`) and text of the source's cells."""
    found = []
    for part in re.split(r"^# %%", SOURCE.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        head, _, text = part.partition("\n")
        if "markdown" in head:
            lines = [re.sub(r"^# ?", "", line) for line in text.strip().splitlines()]
            found.append(("markdown", "\n".join(lines)))
        else:
            found.append(("code", text.strip()))
    return found


def build() -> None:
    """Run the cells and write the notebook; raises `CellExecutionError` if one fails."""
    import nbformat
    from nbclient import NotebookClient

    make: dict[str, Any] = {
        "markdown": nbformat.v4.new_markdown_cell,
        "code": nbformat.v4.new_code_cell,
    }
    notebook = nbformat.v4.new_notebook()
    for number, (kind, text) in enumerate(cells()):
        notebook.cells.append(make[kind](text, id=f"cell-{number}"))
    folder = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=1200, resources=folder).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which differ in every run
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    build()
