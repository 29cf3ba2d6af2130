"""Generates a reference page for each part of the package from its docstrings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).resolve().parents[2] / "moceir"
PARTS = (
    *("networks", "engine", "inference", "pictures", "data", "losses", "training", "export", "serve"),
    *("inspection", "complexity", "hub", "catalogues", "integrations"),
)


def on_files(files: Files, config: Any) -> Files:
    """Add the reference pages."""
    text = "# moceir\n\n::: moceir\n    options: {show_root_heading: false, show_submodules: false}\n"
    files.append(File.generated(config, "api/moceir.md", content=text))
    for part in PARTS:
        modules = [f"moceir.{part}"]
        modules += [f"moceir.{part}.{path.stem}" for path in sorted((PACKAGE / part).glob("[!_]*.py"))]
        text = f"# moceir.{part}\n\n" + "\n".join(
            f"::: {module}\n    options: {{show_submodules: false}}\n" for module in modules
        )
        files.append(File.generated(config, f"api/{part}.md", content=text))
    return files
