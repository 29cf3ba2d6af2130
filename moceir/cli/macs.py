"""``moceir macs``: parameters and multiply-adds, by part, by expert and by route."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from moceir.cli.options import TopK, Weights
from moceir.complexity import Complexity, Cost, count_macs
from moceir.inference.weights import SHIPPED, load_weights
from moceir.networks.routes import REFERENCE_SIZE


def macs(
    weights: Weights = SHIPPED[0],
    topk: TopK = None,
    height: Annotated[int, typer.Option(min=1, help="In pixels.")] = REFERENCE_SIZE[0],
    width: Annotated[int, typer.Option(min=1, help="In pixels.")] = REFERENCE_SIZE[1],
) -> None:
    """Count parameters and multiply-adds for a picture size, in two conventions.

    conv+matmul counts convolutions and matrix products, as fvcore does; full adds FFTs, norms, softmax and
    element-wise work. The count is of the network as it is trained; restoring merges the linear operations that
    compose exactly.
    """
    network = load_weights(weights, topk=topk)
    report = count_macs(network, (height, width))
    console = Console()
    for table in (_parts(report), *([_experts(report)] if report.experts else []), _routes(report)):
        console.print(table)


def _giga(cost: Cost) -> tuple[str, str]:
    return f"{cost.conv_matmul / 1e9:.7f}", f"{cost.full / 1e9:.7f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def _parts(report: Complexity) -> Table:
    height, width = report.size
    table = _table(f"GMACs on 3×{height}×{width}", "part", "parameters", "conv+matmul", "full")
    for name, part in report.parts.items():
        table.add_row(name, f"{part.parameters:,}", *_giga(part.cost))
    table.add_section()
    table.add_row("all", f"{report.parameters:,}", *_giga(report.shared + report.routing))
    table.add_row("of which routing", "", *_giga(report.routing))
    table.caption = "with the experts' parameters, without their GMACs"
    return table


def _experts(report: Complexity) -> Table:
    table = _table("GMACs of the experts", "part", "expert", "parameters", "conv+matmul", "full")
    for name, layer in report.experts.items():
        for index, expert in enumerate(layer):
            table.add_row("" if index else name, str(index), f"{expert.parameters:,}", *_giga(expert.cost))
        table.add_section()
    return table


def _routes(report: Complexity) -> Table:
    table = _table("GMACs of a route", "route", "conv+matmul", "full")
    for expert in range(max(map(len, report.experts.values()), default=0)):
        table.add_row(f"forced to expert {expert}", *_giga(report.forced(expert)))
    table.add_section()
    table.add_row("routing", *_giga(report.routing))
    table.add_row("bilateral post-filter", *_giga(report.post_filter))
    table.add_section()
    for name, cost in report.totals().items():
        table.add_row(f"{name}, all included", *_giga(cost))
    table.caption = "what a budget counts is conv+matmul, all included; expected: every route equally likely"
    return table
