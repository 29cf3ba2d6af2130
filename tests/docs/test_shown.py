"""Parses every command that the README and the docs show; its options, targets, extras and settings must exist."""

from __future__ import annotations

import re
import tomllib
from urllib.parse import parse_qsl, urlsplit

import pytest
import typer
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException
from shown import ROOT, Shown, blocks, in_lines

from moceir.cli.main import app
from moceir.config import config_dir
from moceir.serve.options import DEGRADING, RESTORING, read_query

SHOWN = list({shown.line: shown for shown in [*blocks(), *in_lines()]}.values())
COMMANDS = typer.main.get_command(app).commands
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_pages_show_commands() -> None:
    assert len(blocks()) >= 50
    assert len(in_lines()) > 20


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: f"{shown.page}: {shown.line[:60]}")
def test_commands_can_be_parsed(shown: Shown) -> None:
    if shown.overrides is not None:
        check_overrides(shown.overrides)
    for words in _parts(shown.words):
        check(words)


def check(words: list[str]) -> None:
    if words[0] == "moceir" and words[1] != "train":
        group, rest = COMMANDS[words[1]], words[2:]
        if hasattr(group, "commands") and rest:
            group, rest = group.commands[rest[0]], rest[1:]
        if rest:  # a command's name alone in a sentence has no arguments to parse
            group.make_context(words[1], [word for word in rest if word not in ("<", ">")])
    elif words[0] == "make" and words[1] != "-C":
        assert words[1] in TARGETS
        assert all(re.match(r"(stage|args)=", word) for word in words[2:])
    elif words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "optional-dependencies"
        ]
        assert words[1] == "install"
        for named in re.findall(r"(?:moceir|\.)\[([\w,]+)\]", " ".join(words)):
            assert set(named.split(",")) <= set(extras)
    elif words[0] == "curl":
        url = urlsplit(next(word for word in words if word.startswith("http://127.0.0.1:8000/")))
        read_query(parse_qsl(url.query), {"/restore": RESTORING, "/degrade": DEGRADING}[url.path])
    for word in words:
        if word.startswith(("examples/", "sweeps/")) and "cpp/restore" not in word:
            assert (ROOT / word).exists()


def check_overrides(overrides: list[str]) -> None:
    """Check that overrides compose; for a multirun, use the first value of each choice."""
    first = []
    for text in overrides:
        if text in ("-m", "--cfg", "job") or "hydra.searchpath" in text:
            continue
        override = OverridesParser.create().parse_override(text)
        value = next(iter(override.sweep_string_iterator())) if override.is_sweep_override() else None
        first.append(text if value is None else f"{text.partition('=')[0]}={value}")
    with initialize_config_dir(config_dir(), version_base="1.3"):
        try:
            compose("train", first)
        except MissingConfigException as error:
            if "hydra/launcher" not in str(error):
                raise
            pytest.skip("needs the extra sweep")


def _parts(words: list[str]) -> list[list[str]]:
    """Split a line into the commands that ``&&`` joins."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts
