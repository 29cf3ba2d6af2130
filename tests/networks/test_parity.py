"""Compares the network with the published one, number by number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moceir import MoCEIR, load_network
from moceir.inference.weights import rename_published


@pytest.fixture(scope="module")
def golden(reference: Path) -> dict[str, Tensor]:
    return load_file(reference / "golden" / "moce_ir_30g.safetensors")


@pytest.fixture
def network(golden: dict[str, Tensor], tmp_path: Path) -> MoCEIR:
    """Load the network from a file with the published names, as a user would."""
    published = {name.removeprefix("weight/"): x for name, x in golden.items() if name.startswith("weight/")}
    save_file(published, tmp_path / "published.safetensors")
    return load_network(tmp_path / "published.safetensors")


def test_evaluation_matches_the_published_network(network: MoCEIR, golden: dict[str, Tensor]) -> None:
    with torch.inference_mode():
        restoration = network.restore_and_route(golden["eval/input"])
    torch.testing.assert_close(restoration.restored, golden["eval/output"], atol=1e-4, rtol=0)
    assert torch.equal(torch.stack([r.experts for r in restoration.routings]), golden["eval/expert_index"])
    gates = torch.stack([r.gates for r in restoration.routings])
    torch.testing.assert_close(gates, golden["eval/gates"], atol=1e-4, rtol=0)


def test_training_step_matches_the_published_network(network: MoCEIR, golden: dict[str, Tensor]) -> None:
    restoration = network.train().restore_and_route(golden["train/input"], noise=golden["train/noise"])
    loss = (restoration.restored - golden["train/target"]).abs().mean() + 0.05 * restoration.balance_loss
    loss.backward()

    torch.testing.assert_close(restoration.restored, golden["train/output"], atol=1e-4, rtol=0)
    torch.testing.assert_close(restoration.balance_loss, golden["train/aux_loss"], atol=1e-4, rtol=0)
    torch.testing.assert_close(loss, golden["train/loss"], atol=1e-4, rtol=0)
    assert torch.equal(torch.stack([r.experts for r in restoration.routings]), golden["train/expert_index"])

    prefix = "train/grad_norm/"
    expected = rename_published({n.removeprefix(prefix): x for n, x in golden.items() if n.startswith(prefix)})
    gradients = {name: p.grad.norm() for name, p in network.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    compared = {name for name, norm in expected.items() if norm > 1e-6}
    assert len(compared) > 450
    for name in compared:
        torch.testing.assert_close(gradients[name], expected[name], rtol=0.01, atol=0, msg=name)


def test_complexity_bias_matches_the_published_buffers(network: MoCEIR, golden: dict[str, Tensor]) -> None:
    buffers = [x for name, x in sorted(golden.items()) if name.endswith(".routing.complexity")]
    ours = [block.moce.router.complexity for blocks in network.decoder for block in blocks]
    assert len(ours) == len(buffers) == 7
    for a, b in zip(ours, buffers, strict=True):
        torch.testing.assert_close(a, b)
