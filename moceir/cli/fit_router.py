"""``moceir fit-router``: teaches the router of trained experts which of them restores a picture best."""

from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from moceir.cli.options import Weights
from moceir.config import build
from moceir.extras import require
from moceir.inference.weights import SHIPPED, load_weights, save_network

if TYPE_CHECKING:
    from torch import Tensor

    from moceir.training.router import Examples

KEPT = 50
"""Number of batches after which results are written."""


def fit_router(
    overrides: Annotated[
        list[str], typer.Argument(help="The pictures, as for training: experiment=naf_router data.root=FOLDER.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The network with its new router, .safetensors.")],
    weights: Weights = SHIPPED[0],
    crops: Annotated[
        int, typer.Option(min=20, help="Degraded crops that every expert restores, at most an epoch's.")
    ] = 6000,
    price: Annotated[
        float, typer.Option(min=0, help="dB that a picture must gain for each GMAC by which an expert costs more.")
    ] = 0.002,
    examples: Annotated[
        Path | None,
        typer.Option(
            help="A folder that keeps the results. Calls with other pictures add to it, the router learns from all of "
            "them, and the same call continues where it was killed."
        ),
    ] = None,
) -> None:
    """Restore degraded crops with every expert, and teach the router from the results.

    The table shows what choosing costs on a tenth of the crops, which the router doesn't learn from.
    """
    require("moceir fit-router", "train", "lightning")
    from moceir.training.router import Examples, ExamplesFile, choices, collect_examples
    from moceir.training.router import fit_router as fit
    from moceir.training.teaching import ByResult

    if output.suffix != ".safetensors":
        raise ValueError(f"--output {output}: give a name that ends in .safetensors")
    output.parent.mkdir(parents=True, exist_ok=True)
    network = load_weights(weights).eval()
    teacher = ByResult(db_per_gmac=price, weight=1)
    parts: dict[Path, Examples] = {}
    mine = Path(hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:16] + ".safetensors")
    if examples:
        examples.mkdir(parents=True, exist_ok=True)
        mine = examples / mine
        for path in sorted(examples.glob("*.safetensors")):
            parts[path] = ExamplesFile(path, network=network, teacher=teacher).read()
    data = build("data", overrides)
    data.setup("fit")
    loader = data.train_dataloader()
    loader.start = len(parts[mine].tasks) // data.batch_size if mine in parts else 0
    count = max(0, min(-(-crops // data.batch_size), len(loader)) - loader.start)
    batches = iter(track(islice(loader, count), "restoring", total=count, console=Console(stderr=True)))
    for _ in range(0, count, KEPT):
        collected = collect_examples(network, islice(batches, KEPT), teacher=teacher)
        parts[mine] = Examples.joined([parts[mine], collected]) if mine in parts else collected
        if examples:
            ExamplesFile(mine, network=network, teacher=teacher).write(parts[mine])
    kept = Examples.joined([part.part(slice(None, len(part.tasks) // 10)) for part in parts.values()])
    learned = Examples.joined([part.part(slice(len(part.tasks) // 10, None)) for part in parts.values()])
    before = choices(network, kept)
    fit(network, learned)
    Console().print(_table(kept, before, choices(network, kept)))
    save_network(network, output)
    Console(stderr=True, soft_wrap=True, highlight=False).print(escape(f"wrote {output}"))


def _table(examples: Examples, before: Tensor, now: Tensor) -> Table:
    table = Table(title="What choosing costs, dB", title_justify="left", title_style="bold")
    table.add_column("task", no_wrap=True)
    experts = range(examples.prices.shape[1])
    for column in ("crops", "before", "now", *(f"only {one}" for one in experts)):
        table.add_column(column, justify="right")
    routes = [before, now, *(now.new_full(now.shape, one) for one in experts)]
    lost = [examples.lost(route) for route in routes]
    tasks = [task.partition("+")[0] for task in examples.tasks]
    for shown in [*sorted(set(tasks)), "all"]:
        rows = [place for place, task in enumerate(tasks) if shown in (task, "all")]
        table.add_row(shown, str(len(rows)), *(f"{one[rows].mean():.2f}" for one in lost))
    return table
