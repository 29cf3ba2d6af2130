"""Run the notebooks, print what they print, and keep the figures that the documentation shows: `make notebook`.

The notebooks stay as they are, without outputs. Figures go to ``docs/images/routing_inspection-<number>.png``.
"""

from __future__ import annotations

import base64
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = sorted(Path(__file__).parent.glob("*.ipynb"))
SHOWN = "routing_inspection"
IMAGES = Path(__file__).parents[1] / "docs" / "images"


def main() -> None:
    for path in NOTEBOOKS:
        begun = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=600).execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        print("".join(output.get("text", "") for output in outputs))
        if path.stem == SHOWN:
            figures = [data for output in outputs if (data := output.get("data", {}).get("image/png"))]
            for number, figure in enumerate(figures):
                (IMAGES / f"{path.stem}-{number}.png").write_bytes(base64.b64decode(figure))
            print(f"{len(figures)} figures in {IMAGES}")
        print(f"{path.name}: {time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
