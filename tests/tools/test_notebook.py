"""The notebook is the one that its source makes, and its cells run."""

import json

import matplotlib.pyplot as plt
import pytest

from tools import notebook


def test_the_notebook_is_made_from_its_source_and_has_outputs():
    found = json.loads(notebook.NOTEBOOK.read_text("utf-8"))["cells"]
    shown = [(cell["cell_type"], "".join(cell["source"])) for cell in found]
    assert shown == notebook.cells(), "run: python -m tools.notebook"
    outputs = [output for cell in found for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not [output for output in outputs if output["output_type"] == "error"]


@pytest.mark.slow
def test_the_cells_run(tiny, monkeypatch):
    from resnets.data import cifar

    monkeypatch.setattr(cifar, "load", lambda name: tiny)
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    monkeypatch.chdir(notebook.ROOT)
    names: dict[str, object] = {}
    for kind, text in notebook.cells():
        if kind == "code":  # fewer images: each cell is the page's, otherwise
            exec(compile(text.replace("[:500]", "[:16]"), "notebook", "exec"), names)
    assert names["agreement"].difference < 1e-3
