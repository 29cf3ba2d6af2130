"""The ``moceir`` command: what works on files and folders. Training, which Hydra configures, is a module of its own."""

from __future__ import annotations

import logging
import sys

import typer
from rich.console import Console
from rich.markup import escape

from moceir.cli.demo import demo
from moceir.cli.evaluate import evaluate
from moceir.cli.macs import macs
from moceir.cli.prepare import app as prepare
from moceir.cli.restore import restore
from moceir.cli.serve import serve
from moceir.cli.sweep import sweep
from moceir.engine.allocator import keep_freed_memory

app = typer.Typer(
    help="All-in-one image restoration with a mixture of complexity experts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (restore, serve, evaluate, macs, demo, sweep):
    app.command()(command)
app.add_typer(prepare, name="prepare")


def main() -> None:
    """Run a command; a bad input ends it with one line that names it, and status 2."""
    keep_freed_memory()
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)
    try:
        app()
    except (ValueError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(2)
