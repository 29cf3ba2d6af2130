"""Checks which packages import each other (see CONTRIBUTING.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import moceir

PACKAGE = Path(moceir.__file__).parent
MAY_USE = {
    "__main__": {"cli"},
    "config": {"extras"},
    "cores": set(),
    "extras": set(),
    "networks": set(),
    "pictures": {"extras"},
    "data": {"pictures", "extras"},
    "complexity": {"networks", "extras"},
    "losses": {"networks"},
    "engine": {"networks", "cores"},
    "export": {"networks"},
    "hub": {"networks", "inference", "extras"},
    "catalogues": {"networks", "inference", "export", "pictures"},
    "integrations": {"networks", "inference"},
    "inspection": {"networks", "data", "extras"},
    "worth": {"networks", "data"},
    "inference": {"networks", "engine", "data", "pictures", "extras"},
    "training": {"networks", "cores", "data", "pictures", "losses", "inspection", "worth", "inference", "extras"},
    "serve": {"networks", "engine", "data", "pictures", "inference"},
    "cli": {
        *("extras", "export", "networks", "engine", "cores", "data", "pictures", "inference", "training", "serve"),
        *("complexity", "config", "catalogues", "hub", "inspection", "worth"),
    },
}


def imports(path: Path) -> set[str]:
    """Return the names of all modules that a file imports, also within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            names.add(str(node.module))
            if node.module == "moceir":
                names |= {f"moceir.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("part", MAY_USE)
def test_dependencies_point_one_way(part: str) -> None:
    files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else list((PACKAGE / part).rglob("*.py"))
    assert files
    for path in files:
        used = {name.split(".")[1] for name in imports(path) if name.startswith("moceir.")}
        assert used <= MAY_USE[part] | {part}, path


def test_every_part_is_in_the_list() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__"} == set(MAY_USE)


def test_modules_of_a_package_have_no_import_cycles() -> None:
    """Imports for type checking count, too."""
    used: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        used[name] = imports(path) - {"moceir"}
    for name in used:
        reached: set[str] = set()
        todo = {other for other in used[name] if other in used}
        while todo:
            reached |= todo
            todo = {further for other in todo for further in used[other] if further in used} - reached
        assert name not in reached, name
