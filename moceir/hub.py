"""Networks on the Hugging Face Hub, or in folders with the same layout, which hold one ``model.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from moceir.extras import remedy
from moceir.inference.weights import load_network, save_network
from moceir.networks.unet import UNet

try:
    from huggingface_hub import EvalResult, ModelCardData, ModelHubMixin, hf_hub_download
except ImportError as error:
    raise ImportError(remedy("moceir.hub", "huggingface_hub", "hub")) from error

FILE = "model.safetensors"

TAGS = ["image-restoration", "denoising", "deblurring"]

LOADING = """A network for image restoration. `moceir.hub.OnHub.from_pretrained(name).network` loads it. Its file
states the network's class and configuration.
"""


def model_card(name: str, text: str, scores: Sequence[Mapping[str, Any]]) -> str:
    """Write a README with the Hub's YAML metadata, which lists the scores as a ``model-index``.

    Args:
        name: name of the model.
        text: text after the metadata; if empty, a text that explains how to load the model.
        scores: rows from ``moceir evaluate --json``. Only rows with the largest budget are used.
    """
    budgets = {row["mac_budget"] for row in scores}
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in scores:
        if row["mac_budget"] == max(budgets):
            groups.setdefault((row["name"].partition("/")[0], row["task"]), []).append(row)
    results = [
        EvalResult(
            task_type="image-to-image",
            dataset_type=dataset.lower(),
            dataset_name=f"{dataset}, {task}",
            metric_type=metric,
            metric_name=shown,
            metric_value=round(fmean(row[metric] for row in rows), digits),
        )
        for (dataset, task), rows in groups.items()
        for metric, shown, digits in (("psnr", "PSNR, dB", 2), ("ssim", "SSIM", 4))
    ]
    data = ModelCardData(
        model_name=name,
        library_name="moceir",
        license="apache-2.0",
        pipeline_tag="image-to-image",
        tags=TAGS,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text or LOADING}"


class OnHub(
    ModelHubMixin,
    library_name="moceir",
    license="apache-2.0",
    pipeline_tag="image-to-image",
    tags=TAGS,
    model_card_template=f"---\n{{{{ card_data }}}}\n---\n\n{LOADING}",
):
    """A network with the Hub's methods ``from_pretrained``, ``save_pretrained`` and ``push_to_hub``.

    ``OnHub.from_pretrained(name)`` takes the name of a repository or folder, and returns an object whose ``network`` is
    in evaluation mode. ``OnHub(network).save_pretrained(folder)`` writes such a folder, with a model card.
    """

    def __init__(self, network: UNet) -> None:
        self.network = network

    def _save_pretrained(self, save_directory: Path) -> None:
        save_network(self.network, save_directory / FILE)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, topk: int | None = None, **where: Any) -> OnHub:
        folder = Path(model_id)
        path = folder / FILE if folder.is_dir() else Path(hf_hub_download(model_id, FILE, **where))
        return cls(load_network(path, topk=topk))
