"""Finds the commands that the README and the pages in ``docs/`` show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "conf" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```\n(.*?)^```$|((?:^    \S.*\n)+)", re.DOTALL | re.MULTILINE)
IN_LINE = re.compile(r"`((?:moceir|make|python -m moceir\S*) [^`]+)`")
PROGRAMS = ("moceir", "make", "pip", "python", "curl", "torchrun", "srun", "tensorboard", "wandb", "PYTHONPATH=mine")


class Shown(NamedTuple):
    """A command that a page shows."""

    page: str
    line: str
    """The command as shown, without its comment."""
    words: list[str]

    @property
    def overrides(self) -> list[str] | None:
        """Hydra's overrides in a training command; None for other commands."""
        if self.words[:2] == ["make", "train"]:
            values = dict(word.split("=", 1) for word in self.words[2:])
            return [f"stage=stage{values.get('stage', '1')}", *shlex.split(values.get("args", ""))]
        if self.words[:2] == ["moceir", "train"]:
            return self.words[2:]
        if "moceir.cli.train" in self.words:
            return [word for word in self.words[self.words.index("moceir.cli.train") + 1 :] if word != "..."]
        return None


def blocks() -> list[Shown]:
    """Find the commands in code blocks, in their order."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            lines = (block[1] or block[2]).replace("\\\n", " ").splitlines()
            found += [_read(page, line) for line in lines if line.split() and line.split()[0] in PROGRAMS]
    return found


def in_lines() -> list[Shown]:
    """Find the commands within sentences."""
    return [_read(page, line) for page in PAGES for line in IN_LINE.findall(page.read_text(encoding="utf-8"))]


def _read(page: Path, line: str) -> Shown:
    words = shlex.split(line, comments=True)
    shown = re.sub(r"\s+#.*", "", " ".join(line.split()))
    return Shown(page.relative_to(ROOT).as_posix(), shown, words)
