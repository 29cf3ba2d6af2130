"""``moceir publish``: a network as a folder for a catalogue of models."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from moceir.cli.options import TopK, Weights
from moceir.extras import require
from moceir.inference.weights import SHIPPED, load_weights


class Catalogue(StrEnum):
    """The catalogues that a network can be published in."""

    hub = "hub"
    openmodeldb = "openmodeldb"
    darktable = "darktable"


def publish(
    catalogue: Catalogue,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder.")],
    weights: Weights = SHIPPED[0],
    topk: TopK = None,
    name: Annotated[str | None, typer.Option(help="The model's. Default: that of the weights.")] = None,
    author: Annotated[str, typer.Option(help="Who publishes it.")] = "moceir",
    url: Annotated[str, typer.Option(help="Where the files, or the source, will be found.")] = "",
    scores: Annotated[
        Path | None, typer.Option(help="For the hub: what moceir evaluate --json wrote, as results on the card.")
    ] = None,
) -> None:
    """Write a folder that can be uploaded as it is.

    hub: weights and a card, for a repository of the Hugging Face Hub. openmodeldb: an entry, and the files it names.
    darktable: settings, a model for tiles, and a card.
    """
    network = load_weights(weights, topk=topk)
    name = name or Path(weights).stem
    if catalogue is Catalogue.hub:
        require("moceir publish hub", "hub", "huggingface_hub")
        from moceir.hub import OnHub, model_card

        rows = [] if scores is None else json.loads(scores.read_bytes())
        text = Path(__file__).parents[1] / "weights" / f"{weights}.md"
        about = text.read_text(encoding="utf-8") if text.is_file() else ""
        output.mkdir(parents=True, exist_ok=True)
        (output / "README.md").write_text(model_card(name, about, rows), encoding="utf-8")
        OnHub(network).save_pretrained(output)
        written = [output / "README.md", output / "model.safetensors"]
    else:
        require(f"moceir publish {catalogue}", "export", "onnx")
        if not url:
            raise ValueError("--url: say where the files, or the source, will be found")
        from moceir import catalogues

        write = catalogues.openmodeldb if catalogue is Catalogue.openmodeldb else catalogues.darktable
        written = write(network, output, name=name, author=author, url=url)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for path in written:
        console.print(escape(f"wrote {path}"))
