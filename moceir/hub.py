"""Networks on the Hugging Face Hub, or in folders laid out as there: one ``model.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moceir.extras import remedy
from moceir.inference.weights import load_network, save_network
from moceir.networks.unet import UNet

try:
    from huggingface_hub import ModelHubMixin, hf_hub_download
except ImportError as error:
    raise ImportError(remedy("moceir.hub", "huggingface_hub", "hub")) from error

FILE = "model.safetensors"

_CARD = """---
{{ card_data }}
---

A network for image restoration. `moceir.hub.OnHub.from_pretrained(name).network` loads it; its file says of which kind
it is, and with which configuration it was built.
"""


class OnHub(
    ModelHubMixin,
    library_name="moceir",
    license="apache-2.0",
    pipeline_tag="image-to-image",
    tags=["image-restoration", "denoising", "deblurring"],
    model_card_template=_CARD,
):
    """A network with the Hub's methods ``from_pretrained``, ``save_pretrained`` and ``push_to_hub``.

    ``OnHub.from_pretrained(name)`` takes the name of a repository, or a folder, and gives one whose ``network`` is
    ready for evaluation; ``OnHub(network).save_pretrained(folder)`` writes such a folder, with a model card.
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
