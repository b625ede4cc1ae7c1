"""The notebooks: each is its Python twin, and runs from the first cell to the last."""

from pathlib import Path

import jupytext
import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
named = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def sources(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_there_are_three():
    assert len(NOTEBOOKS) == 3
    assert {file.with_suffix(".py") for file in NOTEBOOKS} == set(
        (ROOT / "examples" / "notebooks").glob("*.py")
    )


@named
def test_a_notebook_is_its_twin(file):
    kept = nbformat.read(file, 4)
    nbformat.validate(kept)
    assert sources(kept) == sources(jupytext.read(file.with_suffix(".py")))
    assert not any(
        output.output_type == "error" for cell in kept.cells for output in cell.get("outputs", ())
    )
    outputs = [out for cell in kept.cells if cell.cell_type == "code" for out in cell.outputs]
    assert outputs  # as they came from a run
    assert "site-packages" not in str(outputs)  # a path of somebody's machine
    assert file.stat().st_size < 2**20


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
@named
def test_a_notebook_runs(file, tmp_path):
    notebook = jupytext.read(file.with_suffix(".py"))
    for name in ("models", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    client = nbclient.NotebookClient(
        notebook, timeout=1_800, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
