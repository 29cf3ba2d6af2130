"""Exported models compute what the networks do."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import openvino
import pytest
import torch
from conftest import pictures, randomise
from torch import Tensor, nn
from typer.testing import CliRunner

import moceir
from moceir.cli.main import app
from moceir.export.onnx import parse_route, to_onnx
from moceir.export.openvino import save_openvino, to_openvino
from moceir.inference.weights import SHIPPED
from moceir.networks.unet import UNet

SMALL = {"dim": 4, "num_blocks": (1, 1), "num_decoder_blocks": (1,), "num_heads": (1, 2), "num_refinement_blocks": 0}


def naf() -> moceir.NAFNet:
    network = moceir.NAFNet(dim=4, num_blocks=(1, 1), num_decoder_blocks=(1,)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.normal_(0, 0.1 if "gain" in name or "output" in name else 0.3)
    return network


def by_onnx(model: onnx.ModelProto) -> Callable[[Tensor], Tensor]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


def by_openvino(model: openvino.Model) -> Callable[[Tensor], Tensor]:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: torch.from_numpy(compiled(x.numpy())[0].copy())


def difference(run: Callable[[Tensor], Tensor], network: UNet, x: Tensor, route: str = "routed") -> float:
    """Return the difference from the network in double precision, relative to the largest value.

    With random weights, the largest value exceeds 1. In single precision, such a network itself differs more from the
    reference than the exported models do.
    """
    experts = parse_route(route, network)
    with torch.no_grad():
        expected = copy.deepcopy(network).double()(
            x.double(), experts=None if not experts else torch.tensor(experts)[:, None]
        )
    assert run(x).shape == expected.shape
    return float((run(x) - expected).abs().max() / expected.abs().max().clamp_min(1))


def test_a_plain_network_for_any_size() -> None:
    network = naf()
    run = by_onnx(to_onnx(network))
    for size in ((1, 1), (7, 30), (64, 64), (45, 130)):
        assert difference(run, network, pictures(1, *size)) < 1e-5


@pytest.fixture(scope="module")
def routed() -> tuple[UNet, onnx.ModelProto]:
    network = randomise(moceir.MoCEIR(**SMALL)).eval()  # type: ignore[arg-type]
    block = network.decoder[0][0]  # type: ignore[index]
    router, last = block.moce.router, network.frequency.mlp[2]
    with torch.no_grad():  # subtract the mean logits, so that pictures take different experts
        router.frequency.weight.zero_()
        logits = [network.restore_and_route(pictures(1, 33, 50, seed)).routings[0].logits[0] for seed in range(8)]
        last.weight.zero_()
        last.bias.copy_(torch.eye(8)[0])
        router.frequency.weight.copy_(torch.outer(-torch.stack(logits).mean(0), torch.eye(8)[0]))
    return network, to_onnx(network)


def test_a_routed_network_takes_its_own_experts(routed: tuple[UNet, onnx.ModelProto]) -> None:
    network, model = routed
    run = by_onnx(model)
    taken = set()
    for seed in range(8):
        x = pictures(1, 33, 50, seed)
        taken.add(network.restore_and_route(x).route.item())
        assert difference(run, network, x) < 1e-5
    assert len(taken) > 1  # otherwise, the test would prove nothing


def test_the_mixture_takes_its_own_expert() -> None:
    arguments = {"dim": 4, "num_blocks": (1, 1), "num_decoder_blocks": (1,), "widths": (0.5, 1, 1)}
    network = randomise(moceir.NAFMixture(**arguments, neighbourhoods=(0, 0, 32), grid=True)).eval()
    last = network.latent[0].mlp[-1]
    with torch.no_grad():  # make pictures take different experts
        logits = [network.restore_and_route(pictures(1, 33, 50, seed)).routings[0].logits[0] for seed in range(8)]
        last.bias.sub_(torch.stack(logits).mean(0))
    run, fixed = by_onnx(to_onnx(network)), by_onnx(to_onnx(network, route="2"))
    taken = set()
    for seed in range(8):
        x = pictures(1, 33, 50, seed)
        taken.add(network.restore_and_route(x).route.item())
        assert difference(run, network, x) < 1e-5
    assert len(taken) > 1
    for size in ((33, 50), (1, 7), (80, 97)):
        assert difference(fixed, network, pictures(1, *size), "2") < 1e-5


@pytest.mark.parametrize("arguments", [{"topk": 2}, {"expert_kind": "window"}, {"window_sizes": (3, 5, 6, 7)}])
def test_other_configurations(arguments: dict) -> None:
    network = randomise(moceir.MoCEIR(**SMALL, **arguments)).eval()
    size = (45, 38)
    assert difference(by_onnx(to_onnx(network, size=size)), network, pictures(1, *size)) < 1e-5


def test_windows_of_odd_sides_for_any_size() -> None:
    network = randomise(moceir.MoCEIR(**SMALL, window_sizes=(3, 5, 6, 7))).eval()  # type: ignore[arg-type]
    run = by_onnx(to_onnx(network, route="1"))
    for size in ((1, 1), (40, 60), (96, 130)):
        assert difference(run, network, pictures(1, *size), "1") < 1e-5


def test_a_fixed_route_has_no_choice(routed: tuple[UNet, onnx.ModelProto]) -> None:
    network, model = routed
    assert "If" in {node.op_type for node in model.graph.node}
    for route in ("cheapest", "3"):
        fixed = to_onnx(network, route=route)
        assert "If" not in {node.op_type for node in fixed.graph.node}
        assert difference(by_onnx(fixed), network, pictures(1, 33, 50), route) < 1e-5


def test_a_model_for_one_size_has_no_computed_shapes(routed: tuple[UNet, onnx.ModelProto]) -> None:
    network, _ = routed
    model = to_onnx(network, size=(30, 44), route="0")
    assert {"Shape", "Mod"}.isdisjoint(node.op_type for node in model.graph.node)
    assert difference(by_onnx(model), network, pictures(1, 30, 44), "0") < 1e-5


def test_the_budget_is_in_the_model() -> None:
    network = randomise(moceir.MoCEIR(**{**SMALL, "num_decoder_blocks": (3,)})).eval()  # type: ignore[arg-type]
    x = pictures(1, 24, 24)
    network.mac_budget = network.route_costs.cheapest(1) / 1e9 + 0.05
    limited = network.restore_and_route(x).route
    assert difference(by_onnx(to_onnx(network)), network, x) < 1e-5
    network.mac_budget = None
    assert not torch.equal(network.restore_and_route(x).route, limited)


def test_openvino(routed: tuple[UNet, onnx.ModelProto], tmp_path: Path) -> None:
    network, model = routed
    save_openvino(to_openvino(model), tmp_path / "model.xml")
    read = openvino.Core().read_model(tmp_path / "model.xml")
    assert read.get_rt_info(["moceir", "route"]).astype(str) == "routed"
    run = by_openvino(read)
    assert max(difference(run, network, pictures(1, *size)) for size in ((33, 50), (64, 40))) < 1e-5
    plain = naf()
    assert difference(by_openvino(to_openvino(to_onnx(plain))), plain, pictures(1, 33, 50)) < 1e-5


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_weights(name: str, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["export", "onnx", "-o", str(tmp_path / "model.onnx"), "--weights", name])
    assert run.exit_code == 0, run.output
    model = onnx.load(tmp_path / "model.onnx")
    about = {entry.key: entry.value for entry in model.metadata_props}
    network = moceir.load_pretrained(name)
    network.mac_budget = 30
    assert (about["name"], about["route"]) == (type(network).__name__, "routed" if network.num_layers else "none")
    assert json.loads(about["config"]) == network.config
    weights = 4 * sum(parameter.numel() for parameter in network.parameters())  # bytes
    assert (tmp_path / "model.onnx").stat().st_size < weights + 500_000
    assert difference(by_onnx(model), network, pictures(1, 50, 70)) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["onnx", "-o", "model.xml"], "a model for onnx is a file .onnx"),
        (["onnx", "-o", "model.onnx", "--size", "720"], "as in 720x1280"),
        (["onnx", "-o", "model.onnx", "--route", "0,1"], "7 layers, in each 1 of the experts 0 to 3"),
        (["onnx", "-o", "model.onnx", "--route", "0,0,0,0,0,0,9"], "7 layers"),
        (["openvino", "-o", "model.xml", "--route", "fast"], "7 layers"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(app, ["export", *arguments, "--weights", "moce_ir_30g"])
    assert isinstance(run.exception, ValueError)
    assert message in str(run.exception)


def test_networks_that_cannot_be_exported_are_named() -> None:
    class Odd(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return torch.special.erfcx(super().forward(x))

    network = naf()
    network.embed = Odd(3, 4, 3, padding=1)
    with pytest.raises(ValueError, match=r"special_erfcx, which moceir\.export does not know"):
        to_onnx(network)


def test_no_decision_of_one_size_gets_into_a_model_for_all() -> None:
    class Deciding(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) * (2 if x.shape[2] > 10 else 1)

    network = naf()
    network.embed = Deciding(3, 4, 3, padding=1)
    with pytest.raises(ValueError, match="branches on the picture's size"):
        to_onnx(network)
    network.double()  # the model still stores existing parameters as float32
    assert difference(by_onnx(to_onnx(network, size=(20, 20))), network, pictures(1, 20, 20)) < 1e-5
