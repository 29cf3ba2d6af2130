from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import pictures
from torch.utils.flop_counter import FlopCounterMode

from moceir import MoCEIR, load_pretrained
from moceir.data.samples import sample_photograph
from moceir.engine import schedule as engine_module
from moceir.engine.schedule import Engine
from moceir.inference.weights import rename_published
from moceir.networks.routes import POST_FILTER_MACS_PER_PIXEL
from moceir.pictures.arrays import read_image

Make = Callable[..., MoCEIR]

SMALL = {"num_blocks": (1, 1, 1), "num_decoder_blocks": (1, 2), "num_heads": (1, 2, 4), "num_refinement_blocks": 1}


@pytest.fixture
def many_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions so small that small pictures have several of them."""
    monkeypatch.setattr(engine_module, "REGION_SIZE", 1)


def same(network: MoCEIR, x: torch.Tensor, experts: torch.Tensor | None = None, **arguments: object) -> None:
    """The engine's pictures and routes are the network's."""
    with torch.inference_mode():
        expected = network.double().restore_and_route(x.double(), experts=experts)
    actual = Engine(network.float(), **arguments).restore_and_route(x, experts=experts)
    scale = float(expected.image.abs().max())
    assert torch.allclose(actual.image.double() / scale, expected.image / scale, rtol=0, atol=1e-5)
    for one, other in zip(actual.routings, expected.routings, strict=True):
        assert torch.equal(one.experts, other.experts)
        assert torch.allclose(one.logits.double(), other.logits, rtol=1e-4, atol=1e-5)
        assert torch.allclose(one.load.double(), other.load, atol=1e-4)
        assert torch.allclose(one.importance.double(), other.importance, atol=1e-4)


def test_it_gives_what_the_published_network_gives(reference: Path) -> None:
    path = reference / "golden" / "moce_ir_30g.safetensors"
    golden = safetensors.torch.load_file(path)
    published = {name.removeprefix("weight/"): t for name, t in golden.items() if name.startswith("weight/")}
    network = MoCEIR()
    network.load_state_dict(rename_published(published))
    restoration = Engine(network).restore_and_route(golden["eval/input"])
    assert (restoration.image - golden["eval/output"]).abs().max() < 1e-5
    assert torch.equal(torch.stack([r.experts for r in restoration.routings]), golden["eval/expert_index"])


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (61, 50), (150, 97), (200, 64)])
@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.usefixtures("many_regions")
def test_any_size_in_any_regions(
    make_network: Make, size: tuple[int, int], lean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lean:
        monkeypatch.setattr(engine_module, "LEAN_FROM", 0)
        monkeypatch.setattr(engine_module, "REREAD_FROM", 0)
    network = make_network(**SMALL)
    assert sum(len(regions) for regions in Engine(network)._levels(200, 64)) > 12
    same(network, pictures(1, *size))


@pytest.mark.parametrize(
    "arguments",
    [
        {"topk": 2},
        {"num_experts": 6},
        {"num_experts": 2, "window_sizes": (3, 5)},
        {"expert_kind": "window"},
        {"gating": "straight_through"},
        {"dim": 6, "num_heads": (1, 2, 3)},
    ],
)
@pytest.mark.usefixtures("many_regions")
def test_every_kind_of_network(make_network: Make, arguments: dict[str, object]) -> None:
    same(make_network(**{**SMALL, **arguments}), pictures(2, 100, 70))


@pytest.mark.usefixtures("many_regions")
def test_every_expert_and_a_batch_of_different_ones(make_network: Make) -> None:
    network = make_network(**SMALL)
    experts = torch.stack([torch.arange(4), torch.arange(4).flip(0), torch.tensor([2, 0, 3, 1])])[..., None]
    same(network, pictures(4, 40, 72), experts=experts)


def test_real_photographs_with_the_shipped_weights() -> None:
    network = load_pretrained()
    photograph = torch.from_numpy(read_image(sample_photograph("chelsea.png"))).permute(2, 0, 1)[None].float() / 255
    noisy = photograph + torch.randn(photograph.shape) * 25 / 255
    same(network, noisy)


@pytest.mark.parametrize("arguments", [{}, {"num_experts": 3, "topk": 2}, {"expert_kind": "window"}])
@pytest.mark.parametrize(("size", "lean"), [((96, 104), False), ((150, 97), False), ((150, 97), True)])
@pytest.mark.usefixtures("many_regions")
def test_its_costs_are_what_torch_counts(
    make_network: Make, arguments: dict[str, object], size: tuple[int, int], lean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lean:
        monkeypatch.setattr(engine_module, "LEAN_FROM", 0)
        monkeypatch.setattr(engine_module, "REREAD_FROM", 0)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)  # its fused operations are not counted
    network = make_network(**SMALL, **arguments)
    engine = Engine(network)
    experts = torch.stack([torch.randperm(network.num_experts)[: network.topk] for _ in range(3)])[:, None]
    with FlopCounterMode(display=False) as counter:
        engine.restore_and_route(pictures(1, *size), experts=experts)
    costs = engine.costs(size)
    expected = int(costs.of(experts)[0]) - POST_FILTER_MACS_PER_PIXEL * size[0] * size[1]
    # Products of weights with each other, once a picture, are not among the costs.
    assert counter.get_total_flops() / 2 - expected == pytest.approx(0, abs=1.5e6)
    assert abs(counter.get_total_flops() / 2 - expected) < 0.03 * expected


def test_it_needs_fewer_multiply_adds_than_the_network() -> None:
    network = MoCEIR()
    folded, plain = Engine(network).route_costs, network.route_costs
    for expert in range(4):
        route = torch.full((7, 1, 1), expert)
        assert folded.of(route) < 0.97 * plain.of(route)


def test_no_route_exceeds_its_budget(make_network: Make) -> None:
    network = make_network()
    x = pictures(3, 40, 40)
    free = Engine(network)
    dearest = int(free.route_costs.of(_routes(free, x)).max())
    cheapest = free.route_costs.cheapest(1)
    budget = (dearest + cheapest) / 2e9
    assert cheapest < budget * 1e9 < dearest
    engine = Engine(network, mac_budget=budget)
    assert engine.route_costs.of(_routes(engine, x)).max() <= budget * 1e9
    with pytest.raises(ValueError, match=r"mac_budget of 1 GMACs: the cheapest route costs 27\.\d+ at 1280×720"):
        Engine(network, mac_budget=1)


def _routes(engine: Engine, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([routing.experts for routing in engine.restore_and_route(x).routings])


def test_it_keeps_its_own_weights(make_network: Make) -> None:
    network = make_network(**SMALL)
    engine = Engine(network)
    x = pictures(1, 40, 40)
    before = engine.restore_and_route(x).image
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    assert torch.equal(engine.restore_and_route(x).image, before)


@pytest.mark.parametrize("x", [torch.zeros(3, 8, 8), torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 8, 8).byte()])
def test_other_tensors_are_refused(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected a floating-point \(B, 3, H, W\) tensor"):
        Engine(MoCEIR(**SMALL)).restore_and_route(x)
