"""The notebooks run from top to bottom, and are stored without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

LESS = {"side=192": "side=64", "trainer.max_epochs=3": "trainer.max_epochs=1"}
"""Settings of the notebooks that take a reader a minute, and what the test runs instead."""

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_is_stored_stripped(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    for cell in notebook.cells:
        for full, less in LESS.items():
            cell.source = cell.source.replace(full, less)
    NotebookClient(notebook, timeout=300).execute()
