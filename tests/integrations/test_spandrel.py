"""spandrel recognises moceir's files. The test needs spandrel, which is optional because it installs torchvision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import pictures

import moceir

spandrel = pytest.importorskip("spandrel", reason="needs spandrel, which pulls torchvision: pip install spandrel")


def test_spandrel_loads_the_shipped_weights() -> None:
    from moceir.integrations.spandrel import register

    register()
    register()
    path = Path(moceir.__file__).parent / "weights" / "moce_ir_30g.safetensors"
    model = spandrel.ModelLoader().load_from_file(path)
    assert model.architecture.id == "MoCEIR"
    assert model.tiling is spandrel.ModelTiling.INTERNAL
    assert (model.purpose, model.scale, model.input_channels) == ("Restoration", 1, 3)
    network = moceir.load_pretrained("moce_ir_30g")
    network.mac_budget = 30
    x = pictures(1, 37, 50)
    with torch.inference_mode():
        assert torch.equal(model(x), network(x).clamp(0, 1))
