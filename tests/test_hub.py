"""Networks in the Hub's layout, without a network connection."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import pictures, randomise
from safetensors import safe_open

import moceir
from moceir.hub import OnHub

SMALL = {"dim": 4, "num_blocks": (1, 1), "num_decoder_blocks": (1,), "num_heads": (1, 2), "num_refinement_blocks": 0}


def test_a_folder_comes_back(tmp_path: Path) -> None:
    network = randomise(moceir.MoCEIR(**SMALL)).eval()  # type: ignore[arg-type]
    OnHub(network).save_pretrained(tmp_path / "folder")
    card = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: image-to-image" in card
    assert "library_name: moceir" in card
    again = OnHub.from_pretrained(tmp_path / "folder").network
    assert again.config == network.config
    x = pictures(1, 20, 30)
    assert torch.equal(again(x), network(x))
    with safe_open(tmp_path / "folder" / "model.safetensors", framework="pt") as file:
        about = file.metadata()
    assert about["modelspec.architecture"] == "moceir/MoCEIR"
    assert about["modelspec.implementation"].startswith("moceir ")


def test_a_folder_without_a_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.safetensors: no such file"):
        OnHub.from_pretrained(tmp_path)


def test_torch_hub() -> None:
    network = torch.hub.load(str(Path(__file__).parents[1]), "moce_ir_30g", source="local")
    x = pictures(1, 20, 30)
    assert torch.equal(network(x), moceir.load_pretrained()(x))
