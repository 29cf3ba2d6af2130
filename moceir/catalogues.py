"""Writes networks as folders for catalogues of models: OpenModelDB's and darktable's."""

from __future__ import annotations

import hashlib
import json
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moceir.export.onnx import CHEAPEST, to_onnx
from moceir.inference.weights import save_network
from moceir.networks.unet import UNet
from moceir.pictures.files import write_atomically

_WHAT = "Removes Gaussian, photon and camera noise from photographs, without knowing the noise level."
_LIMITS = (
    "Barely reduces strong blur. Of the weights that come with moceir, naf_free_30g was trained on freely licensed "
    "photographs; moce_ir_30g and naf_mixture_30g were trained on BSDS500 and PolyU photographs, which are for "
    "non-commercial research, and the latter also on photographs some of which state no licence."
)


def openmodeldb(network: UNet, folder: Path, *, name: str, author: str, url: str) -> list[Path]:
    """Write ``data/models/1x-NAME.json``, as in OpenModelDB's repository, and the files that it names.

    Args:
        network: the network to list.
        folder: the root folder of the output.
        name: name of the model.
        author: name of a user of OpenModelDB.
        url: address of the folder that will hold the files.

    Returns:
        The paths of the files that were written.
    """
    stem = f"1x-{name}"
    weights, model = folder / f"{stem}.safetensors", folder / f"{stem}.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    save_network(network, weights)
    write_atomically(model, to_onnx(network).SerializeToString())
    about = {
        "name": stem,
        "author": author,
        "license": "Apache-2.0",
        "tags": ["denoise", "photo", "restoration"],
        "description": f"{_WHAT}\n\n{_LIMITS}",
        "date": date.today().isoformat(),
        "architecture": type(network).__name__.lower(),
        "size": [f"{sum(parameter.numel() for parameter in network.parameters()):,} parameters"],
        "scale": 1,
        "inputChannels": 3,
        "outputChannels": 3,
        "resources": [
            _resource(weights, "pytorch", "safetensors", url),
            _resource(model, "onnx", "onnx", url),
        ],
        "images": [],
    }
    entry = folder / "data" / "models" / f"{stem}.json"
    write_atomically(entry, _json(about))
    return [entry, weights, model]


def _resource(path: Path, platform: str, kind: str, url: str) -> dict[str, Any]:
    content = path.read_bytes()
    return {
        "platform": platform,
        "type": kind,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "urls": [f"{url.rstrip('/')}/{path.name}"],
    }


def darktable(network: UNet, folder: Path, *, name: str, author: str, url: str, side: int = 768) -> list[Path]:
    """Write the folder ``denoise-NAME`` for darktable's AI modules: settings, model and card.

    The model has fixed experts and one size, because darktable cuts photographs into tiles, each of which would
    otherwise choose its own experts.

    Args:
        network: the network to export.
        folder: the folder in which the model's folder is created.
        name: name of the model.
        author: author, for the card.
        url: address of the source, for the card.
        side: side of a tile, in pixels.

    Returns:
        The paths of the files that were written.
    """
    place = folder / f"denoise-{name.lower().replace('_', '-')}"
    model, settings, card = place / "model.onnx", place / "config.json", place / "README.md"
    written = to_onnx(network, route=CHEAPEST if network.num_layers else "routed", size=(side, side))
    write_atomically(model, written.SerializeToString())
    route = {entry.key: entry.value for entry in written.metadata_props}["route"]
    about = {
        "id": place.name,
        "name": f"denoise {name}",
        "description": _WHAT,
        "task": "denoise",
        "version": version("moceir"),
        "arch": type(network).__name__.lower(),
        "backend": "onnx",
        "tiling": True,
        "type": "single",
        "attributes": {"input_sizes": [side]},
        "model_card": {
            "long_description": _WHAT,
            "scope": "single-image denoising",
            "author": author,
            "source": url,
            "license": "Apache-2.0",
            "training_data": "see the known limitations",
            "training_data_license": "see the known limitations",
            "notes": _LIMITS,
        },
    }
    write_atomically(settings, _json(about))
    write_atomically(card, _card(about, side, route).encode())
    return [settings, model, card]


def _card(about: dict[str, Any], side: int, route: str) -> str:
    card = about["model_card"]
    return f"""# {about["name"]}

{about["description"]}

- **Source**: {card["source"]}, Apache-2.0, version {about["version"]}
- **Architecture**: {about["arch"]}, experts {route}, chosen once for all tiles
- **ONNX model**: input `image` and output `restored`, (1, 3, {side}, {side}) float32, RGB from 0 to 1; opset 18

| property | value |
| --- | --- |
| Model license | Apache-2.0 |
| Training data | {card["training_data"]} |
| Training data license | {card["training_data_license"]} |
| Training code | in the source, `make release-weights` |
| Known limitations | {card["notes"]} |
| Inference | local only |
| Reproducibility | `moceir publish darktable -o FOLDER` |
"""


def _json(about: dict[str, Any]) -> bytes:
    return (json.dumps(about, indent=4, ensure_ascii=False) + "\n").encode()
