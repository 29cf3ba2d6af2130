"""Generates the page of commands from their ``--help`` texts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.structure.files import File, Files

with warnings.catch_warnings(action="ignore"):  # from imported packages
    from moceir.cli.main import app

INTRODUCTION = """# Commands

This page lists every command and option, as `moceir COMMAND --help` shows them. `moceir train` takes
[Hydra's overrides](configuration.md) instead. On bad input, a command prints one line that names it and exits with
status 2.
"""


def on_files(files: Files, config: Any) -> Files:
    """Add the page of commands."""
    text = "\n\n".join([INTRODUCTION, *_sections("moceir", typer.main.get_command(app))])
    files.append(File.generated(config, "commands.md", content=text))
    return files


def _sections(name: str, command: Any) -> Iterator[str]:
    if hasattr(command, "commands"):
        for subname, subcommand in sorted(command.commands.items()):
            yield from _sections(f"{name} {subname}", subcommand)
        return
    yield f"## {name}"
    yield (command.help or "").strip()
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    usage = " ".join([name, "[OPTIONS]", *(one.name.upper() + "…" * (one.nargs == -1) for one in arguments)])
    yield f"```text\n{usage}\n```"
    rows = [(f"`{one.name.upper()}`", one.help or "", "") for one in arguments]
    rows += [(", ".join(f"`{word}`" for word in one.opts), one.help or "", _default(one)) for one in options]
    if rows:
        table = ["| | | default |", "| --- | --- | --- |"]
        table += [f"| {names} | {_cell(text)} | {default} |" for names, text, default in rows]
        yield "\n".join(table)


def _default(option: Any) -> str:
    value = option.default
    return "" if value in (None, False, [], ()) or callable(value) else f"`{getattr(value, 'value', value)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
