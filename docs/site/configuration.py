"""Generates the configuration reference from ``conf/``: every file, every key, its value, and its description.

The description of a key is the comment beside or above it. Without a comment, it comes from the docstring of the object
that takes the key as an argument; otherwise, from another file that describes the same key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import griffe
import yaml
from mkdocs.structure.files import File, Files
from pages import ROOT

CONF = ROOT / "conf"
PACKAGE = re.compile(r"^# @package (\S+)$", re.MULTILINE)
DESCRIBING = (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes)
LONG = 60
"""Longest value, in characters, that a table cell shows."""


class Key(NamedTuple):
    """A setting."""

    name: str
    """The key as written on the command line."""
    value: str
    """The value as written in the file."""
    description: str


def on_files(files: Files, config: Any) -> Files:
    """Append the reference to ``conf/README.md``."""
    page = files.get_file_from_path("configuration.md")
    assert page is not None, "pages.py adds this page"
    files.remove(page)
    files.append(File.generated(config, "configuration.md", content=page.content_string + "\n" + reference()))
    return files


def reference() -> str:
    """Return the reference for all of ``conf/`` as Markdown."""
    parts = ["## Every key", *_section(CONF / "train.yaml"), *_section(CONF / "predict.yaml")]
    group = ""
    for path in sorted(CONF.rglob("*/*.yaml"), key=lambda path: (path.parent.as_posix(), path.stem)):
        if path.parent.relative_to(CONF).as_posix() != group:
            group = path.parent.relative_to(CONF).as_posix()
            parts.append(f"## {group} {{#{group.replace('/', '-')}}}")
        parts += _section(path)
    return "\n\n".join(parts) + "\n"


@cache
def descriptions() -> dict[str, str]:
    """Return a description for each key, from the first file that has one."""
    found: dict[str, str] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        for key in read(path)[1]:
            if key.description:
                found.setdefault(key.name, key.description)
    return found


def read(path: Path) -> tuple[str, list[Key]]:
    """Return a file's introductory comment and its keys."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    first = next((number for number, line in enumerate(lines) if line and not line.startswith("#")), 0)
    head = [line.lstrip("# ") for line in lines[:first] if line.startswith("#") and not PACKAGE.match(line)]
    node = yaml.compose(text)
    return "\n".join(head), list(_keys(node, lines, _prefix(path, text), "", first)) if node else []


def _prefix(path: Path, text: str) -> str:
    found = PACKAGE.search(text)
    package = found[1] if found else path.parent.relative_to(CONF).as_posix().replace("/", ".")
    return "" if package in ("_global_", ".") else f"{package}."


def _keys(node: Any, lines: list[str], prefix: str, inherited: str, first: int) -> Iterator[Key]:
    entries = {name.value: value for name, value in node.value}
    target = entries["_target_"].value if "_target_" in entries else _targets().get(prefix, "")
    arguments = _arguments(target)
    for name, value in node.value:
        if name.value in ("defaults", "_convert_", "_partial_"):
            continue
        description = _comment(lines, name, value, first) or arguments.get(name.value, "") or inherited
        if name.value == "_target_":
            description = "Class or function that Hydra instantiates."
        if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            yield from _keys(value, lines, f"{prefix}{name.value}.", description, first)
        else:
            yield Key(prefix + name.value, _source(lines, value), description)


def _comment(lines: list[str], name: Any, value: Any, first: int) -> str:
    if value.start_mark.line > name.start_mark.line:  # the value starts on a later line
        beside = lines[name.start_mark.line][name.end_mark.column + 1 :].strip()
    else:
        beside = lines[value.start_mark.line][_end(value, lines) :].strip()
    if beside.startswith("#"):
        return beside.lstrip("# ")
    above: list[str] = []
    number = name.start_mark.line - 1
    while number >= first and lines[number].strip().startswith("#"):
        above.insert(0, lines[number].strip().lstrip("# "))
        number -= 1
    return " ".join(above)


def _end(value: Any, lines: list[str]) -> int:
    """Return the column where a single-line value ends, or the end of the line for longer values."""
    mark = value.end_mark
    return mark.column if mark.line == value.start_mark.line else len(lines[value.start_mark.line])


def _source(lines: list[str], value: Any) -> str:
    line = value.start_mark.line
    text = lines[line][value.start_mark.column : _end(value, lines)].strip() if line < len(lines) else ""
    if not isinstance(value, yaml.ScalarNode) and (value.end_mark.line > line or len(text) > LONG):
        return "below"
    return text


@cache
def _targets() -> dict[str, str]:
    """Return key -> target class or function, for files that set only some of its arguments."""
    found: dict[str, str] = {}

    def collect(node: Any, prefix: str) -> None:
        for name, value in node.value:
            if name.value == "_target_":
                found.setdefault(prefix, value.value)
            elif isinstance(value, yaml.MappingNode):
                collect(value, f"{prefix}{name.value}.")

    for path in sorted(CONF.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if node := yaml.compose(text):
            collect(node, _prefix(path, text))
    return found


@cache
def _package(name: str) -> Any:
    return griffe.load(name, search_paths=[ROOT])


@cache
def _arguments(target: str) -> dict[str, str]:
    """Return the argument descriptions in the docstrings of one of our objects and of its base classes."""
    package, _, path = target.partition(".")
    if package not in ("moceir", "hydra_plugins"):
        return {}
    found = _package(package)[path]
    found = found.final_target if found.is_alias else found
    described: dict[str, str] = {}
    for owner in [found, *(found.mro() if found.is_class else [])]:
        for source in (owner, owner.members.get("__init__")):
            sections = source.docstring.parse("google", warnings=False) if source and source.docstring else []
            for section in sections:
                if section.kind in DESCRIBING:
                    for entry in section.value:
                        for name in entry.name.split(","):
                            described.setdefault(name.strip(), " ".join(entry.description.split()))
    return described


def _section(path: Path) -> Iterator[str]:
    choice = path.relative_to(CONF).with_suffix("").as_posix()
    text, keys = read(path)
    yield f"### {choice} {{#{choice.replace('/', '-')}}}"
    if text:
        yield text
    if keys:
        rows = ["| key | value | |", "| --- | --- | --- |"]
        rows += [
            f"| `{key.name}` | {_code(key.value)} | {_cell(key.description or descriptions().get(key.name, ''))} |"
            for key in keys
        ]
        yield "\n".join(rows)
    body = path.read_text(encoding="utf-8").rstrip()
    yield f'<details markdown="1"><summary>conf/{choice}.yaml</summary>\n\n```yaml\n{body}\n```\n\n</details>'


def _code(value: str) -> str:
    return value if value in ("", "below") else f"`{value.replace('|', chr(92) + '|')}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
