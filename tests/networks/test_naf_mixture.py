"""Tests the second network with experts: reuse of trained weights, routing, and errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import randomise

from moceir import MoCEIR, NAFMixture, NAFNet, load_network, save_network

SMALL = {"dim": 4, "num_blocks": (1, 1, 1), "num_decoder_blocks": (2, 1)}
WIDTHS = (0.5, 1, 1.5)


def route(*experts: int) -> torch.Tensor:
    return torch.tensor(experts)[None, :, None]


@pytest.fixture
def mixture() -> NAFMixture:
    torch.manual_seed(0)
    return randomise(NAFMixture(**SMALL, widths=WIDTHS, neighbourhoods=(64, 0, 0), grid=True)).eval()


def test_experts_start_as_the_trained_blocks() -> None:
    torch.manual_seed(0)
    trained, x = randomise(NAFNet(**SMALL)).eval(), torch.rand(2, 3, 21, 30)
    network = NAFMixture(**SMALL, widths=WIDTHS).eval()
    network.start_from(trained)
    expected = trained(x)
    for expert, equal in enumerate([False, True, True]):  # the narrow one has half the channels
        restored = network(x, experts=route(expert, expert))
        assert torch.allclose(restored, expected, rtol=1e-4, atol=1e-3) == equal
        assert not torch.equal(restored, x)


def test_a_further_expert_starts_as_the_first_of_its_kind(mixture: NAFMixture) -> None:
    sides, x = mixture.settings.neighbourhoods, torch.rand(4, 3, 20, 28)
    network = NAFMixture(**SMALL, widths=(*WIDTHS, 1, 0.5), neighbourhoods=(*sides, 0, 64), grid=True).eval()
    network.start_from(mixture)
    for expert, source in enumerate([0, 1, 2, 1, 0]):
        assert torch.equal(network(x, experts=route(*[expert] * 4)), mixture(x, experts=route(*[source] * 4)))
    logits, before = (one.restore_and_route(x).routings[0].logits for one in (network, mixture))
    assert torch.allclose(logits, before[:, [0, 1, 2, 1, 0]], rtol=1e-5, atol=1e-5)
    network.decoder[0][0].experts[3].gain1.data += 1  # a copy shares no tensor with its source
    assert torch.equal(network(x, experts=route(1, 1, 1, 1)), mixture(x, experts=route(1, 1, 1, 1)))


def test_an_expert_of_a_new_kind_is_refused(mixture: NAFMixture) -> None:
    arguments = {**mixture.settings.plain(), "widths": (*WIDTHS, 2), "neighbourhoods": (64, 0, 0, 0)}
    with pytest.raises(ValueError, match="add some that have the width and the neighbourhood of one of them"):
        NAFMixture(**arguments).start_from(mixture)
    with pytest.raises(ValueError, match="begin with its experts"):
        NAFMixture(**{**arguments, "widths": (1, *WIDTHS)}).start_from(mixture)
    with pytest.raises(ValueError, match="has other blocks than this one"):
        NAFMixture(**{**arguments, "grid": False}).start_from(mixture)


def test_other_blocks_are_not_taken_over() -> None:
    with pytest.raises(ValueError, match="has other blocks than this one"):
        NAFMixture(**SMALL).start_from(NAFNet(**{**SMALL, "num_blocks": (1, 1, 2)}))
    with pytest.raises(ValueError, match="is another than this one"):
        NAFMixture(**SMALL).start_from(MoCEIR())


def test_a_batch_is_its_pictures_one_by_one(mixture: NAFMixture) -> None:
    x, experts = torch.rand(4, 3, 20, 28), (2, 0, 2, 1)
    together = mixture.restore_and_route(x, experts=route(*experts))
    assert together.route.flatten().tolist() == list(experts)
    for index, expert in enumerate(experts):
        alone = mixture(x[index : index + 1], experts=route(expert))
        assert torch.allclose(together.restored[index : index + 1], alone, rtol=1e-4, atol=1e-3)


def test_the_budget_holds(mixture: NAFMixture) -> None:
    costs = mixture.route_costs
    cheap, dear = costs.cheapest(1) / 1e9, (costs.base + max(costs.experts[0])) / 1e9
    x = torch.rand(8, 3, 16, 16)
    mixture.latent[0].mlp[-1].bias.data[:] = torch.tensor([0.0, 1.0, 50.0])
    assert set(mixture.restore_and_route(x).route.flatten().tolist()) == {2}
    mixture.mac_budget = (cheap + dear) / 2
    assert 2 not in mixture.restore_and_route(x).route
    with pytest.raises(ValueError, match="the cheapest route costs"):
        mixture.mac_budget = cheap * 0.99


def test_the_router_learns_and_leaves_the_encoder_alone(mixture: NAFMixture) -> None:
    mixture.restore_and_route(torch.rand(2, 3, 16, 16)).routings[0].logits.sum().backward()
    trained = {name for name, parameter in mixture.named_parameters() if parameter.grad is not None}
    assert trained
    assert all(name.startswith("latent.0.") for name in trained)


def test_a_file_stores_the_network(mixture: NAFMixture, tmp_path: Path) -> None:
    save_network(mixture, tmp_path / "mixture.safetensors")
    network, x = load_network(tmp_path / "mixture.safetensors"), torch.rand(1, 3, 16, 16)
    assert isinstance(network, NAFMixture)
    assert network.config == mixture.config
    assert torch.equal(network(x), mixture(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (1,)}, "give 2 to 6 of them"),
        ({"widths": (0, 1)}, "each above 0"),
        ({"neighbourhoods": (0, 64)}, "give one for each of the 4 widths, or none"),
        ({"neighbourhoods": (0, 0, 0, 32)}, "a multiple of 64"),
        ({"router_width": 0}, "router_width=0: give 1 or more"),
        ({"num_blocks": (1, 0), "num_decoder_blocks": (0,)}, "no block behind the encoder"),
    ],
)
def test_impossible_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NAFMixture(**arguments)
