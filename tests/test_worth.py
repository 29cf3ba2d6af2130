"""Measures worth on networks in which it is known which blocks and experts matter."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomise
from typer.testing import CliRunner

from moceir import NAFMixture, NAFNet, save_network
from moceir.cli.main import app
from moceir.data.datasets import Sample, WholePictures
from moceir.data.degradations import Chain, GaussianNoise
from moceir.inspection import sample_pictures
from moceir.pictures.arrays import write_picture
from moceir.worth import account

TASKS = {"clean": Chain(steps=[]), "noisy": GaussianNoise(sigmas=[50])}
SMALL = {"dim": 4, "num_blocks": (1, 1), "num_decoder_blocks": (1,)}


def mixture() -> NAFMixture:
    torch.manual_seed(0)
    network = randomise(NAFMixture(**SMALL, widths=(0.5, 1))).eval()
    network.output.weight.data *= 0.01
    return network


def samples() -> list[Sample]:
    pictures = sample_pictures(32)
    dataset = WholePictures(sets=[pictures._replace(pairs=pictures.pairs[:2])], degradations=TASKS, seed=0)
    return [dataset[index] for index in range(len(dataset))]


def test_a_block_that_adds_nothing_is_worth_nothing() -> None:
    network = NAFNet(**SMALL).eval()  # all gains are zero
    torch.nn.init.normal_(network.output.weight, std=0.01)
    network.encoder[0][0].gain2.data[:] = 1  # except this one
    found = {one.change: one for one in account(network, samples())}
    assert list(found) == ["without encoder.0.0", "without latent.0", "without decoder.0.0"]
    first, *others = found.values()
    assert set(first.lost) == set(TASKS)
    assert all(lost != 0 for lost in first.lost.values())
    assert all(lost == 0 for other in others for lost in other.lost.values())
    assert first.per_gmac == pytest.approx(first.mean / first.saved)
    assert math.isnan(first._replace(saved=0).per_gmac)


def test_experts_are_forced_and_left_out() -> None:
    network = mixture()
    router = network.latent[0].mlp[-1]
    router.weight.data.zero_()
    router.bias.data[:] = torch.tensor([0.0, 1.0])  # every picture takes expert 1
    found = {one.change: one for one in account(network, samples())}
    assert found["expert 1 everywhere"].mean == found["layer 0 without expert 0"].mean == 0
    costs = network.route_costs.experts[0]
    for change in ("expert 0 everywhere", "layer 0 without expert 1"):
        assert found[change].saved == pytest.approx((costs[1] - costs[0]) / 1e9, rel=1e-4)
        assert found[change].lost["noisy"] != 0
    assert found["expert 0 everywhere"].lost == found["layer 0 without expert 1"].lost


def test_the_command_prints_and_writes_it(photograph: np.ndarray, tmp_path: Path) -> None:
    write_picture(tmp_path / "clean" / "a.png", photograph)
    save_network(mixture(), tmp_path / "mixture.safetensors")
    arguments = ["worth", str(tmp_path / "clean"), "--weights", str(tmp_path / "mixture.safetensors"), "--side", "32"]
    run = CliRunner().invoke(app, [*arguments, "--degradation", "noise", "--json", str(tmp_path / "worth.json")])
    assert run.exit_code == 0, run.output
    assert "without decoder.0.0" in run.output
    assert "expert 1 everywhere" in run.output
    assert {"change", "saved", "lost"} == set(json.loads((tmp_path / "worth.json").read_text())[0])
