"""Run the notebook on routing and keep its figures for the documentation: `make notebook`.

The notebook itself stays as it is, without outputs. Figures go to ``docs/images/routing_inspection-<number>.png``.
"""

from __future__ import annotations

import base64
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent / "routing_inspection.ipynb"
IMAGES = Path(__file__).parents[1] / "docs" / "images"


def main() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = [data for output in outputs if (data := output.get("data", {}).get("image/png"))]
    for number, figure in enumerate(figures):
        (IMAGES / f"{NOTEBOOK.stem}-{number}.png").write_bytes(base64.b64decode(figure))
    print("".join(output.get("text", "") for output in outputs))
    print(f"{len(figures)} figures in {IMAGES}")


if __name__ == "__main__":
    main()
