"""Run the notebooks and keep their figures for the documentation: `make notebook`.

The notebooks themselves stay as they are, without outputs. Figures go to ``docs/images/<notebook>-<number>.png``.
"""

from __future__ import annotations

import base64
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def main() -> None:
    for path in sorted(HERE.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=600).execute()
        outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
        figures = [data for output in outputs if (data := output.get("data", {}).get("image/png"))]
        for number, figure in enumerate(figures):
            (HERE.parent / "docs" / "images" / f"{path.stem}-{number}.png").write_bytes(base64.b64decode(figure))
        print(f"{path.name}: {len(figures)} figures")


if __name__ == "__main__":
    main()
