"""The ``moceir`` command: subcommands for files and folders, and training, which Hydra configures."""

from __future__ import annotations

import logging
import runpy
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

import moceir
from moceir.cli.demo import demo
from moceir.cli.evaluate import evaluate
from moceir.cli.export import export
from moceir.cli.fit_router import fit_router
from moceir.cli.macs import macs
from moceir.cli.prepare import app as prepare
from moceir.cli.publish import publish
from moceir.cli.restore import restore
from moceir.cli.serve import serve
from moceir.cli.sweep import sweep
from moceir.cli.worth import worth
from moceir.engine.allocator import keep_freed_memory
from moceir.extras import require

app = typer.Typer(
    help="All-in-one image restoration with a mixture of complexity experts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (restore, serve, evaluate, macs, worth, fit_router, demo, export, publish, sweep):
    app.command()(command)
app.add_typer(prepare, name="prepare")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def train(context: typer.Context) -> None:
    """Train a network; the arguments are Hydra's, as of python -m moceir.cli.train."""
    _run_hydra("train", context.args)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def predict(context: typer.Context) -> None:
    """Restore with many processes or machines; the arguments are Hydra's, as of python -m moceir.cli.predict."""
    _run_hydra("predict", context.args)


def _run_hydra(name: str, arguments: list[str]) -> None:
    require(f"moceir {name}", "train", "hydra", "lightning")
    # Run it as a module, because Lightning starts further processes by the name of the running module.
    sys.argv = [f"moceir {name}", *arguments]
    runpy.run_module(f"moceir.cli.{name}", run_name="__main__", alter_sys=True)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"moceir {moceir.__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Configure logging, unless Hydra does."""
    if context.invoked_subcommand not in ("train", "predict"):  # Hydra configures their logging
        logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)


def main() -> None:
    """Run a command; on bad input, print one line that names it and exit with status 2."""
    keep_freed_memory()
    try:
        app()
    except (ValueError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(2)
