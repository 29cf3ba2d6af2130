"""A page of reference for each room of the package, made from its docstrings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).resolve().parents[2] / "moceir"
ROOMS = (
    *("networks", "engine", "inference", "pictures", "data", "losses", "training", "export", "serve"),
    *("inspection", "complexity", "hub", "catalogues", "integrations"),
)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    text = "# moceir\n\n::: moceir\n    options: {show_root_heading: false, show_submodules: false}\n"
    files.append(File.generated(config, "api/moceir.md", content=text))
    for room in ROOMS:
        modules = [f"moceir.{room}"]
        modules += [f"moceir.{room}.{path.stem}" for path in sorted((PACKAGE / room).glob("[!_]*.py"))]
        text = f"# moceir.{room}\n\n" + "\n".join(
            f"::: {module}\n    options: {{show_submodules: false}}\n" for module in modules
        )
        files.append(File.generated(config, f"api/{room}.md", content=text))
    return files
