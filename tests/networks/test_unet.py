from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import pictures
from safetensors.torch import load_file

from moceir import MoCEIR
from moceir.networks.experts import Expert, expert_kinds

Make = Callable[..., MoCEIR]


def test_default_network_has_571_001_parameters() -> None:
    assert sum(p.numel() for p in MoCEIR().parameters()) == 571_001


def test_untrained_network_returns_its_input() -> None:
    x = torch.rand(2, 3, 20, 28)
    assert torch.equal(MoCEIR().eval()(x), x)


def test_regression(make_network: Make) -> None:
    """Detects changes of the output when the published network's golden data is unavailable."""
    fixture = load_file(Path(__file__).parents[1] / "fixtures" / "regression.safetensors")
    restoration = make_network().restore_and_route(fixture["input"])
    torch.testing.assert_close(restoration.restored, fixture["output"], atol=1e-4, rtol=0)
    assert torch.equal(torch.stack([r.experts for r in restoration.routings]), fixture["experts"])


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (61, 61), (721, 1279)])
def test_any_size_runs_and_is_kept(make_network: Make, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        restored = make_network()(torch.rand(1, 3, *size))
    assert restored.shape == (1, 3, *size)
    assert restored.isfinite().all()


@pytest.mark.parametrize("topk", [1, 2])
def test_batch_equals_its_pictures_one_by_one(make_network: Make, topk: int) -> None:
    network = make_network(topk=topk)
    batch = pictures(5, 40, 48)
    picks = torch.stack([torch.randperm(4, generator=torch.Generator().manual_seed(i))[:topk] for i in range(35)])
    experts = picks.reshape(7, 5, topk)
    assert all(len(layer.unique(dim=0)) > 1 for layer in experts)
    together = network(batch, experts=experts)
    alone = torch.cat([network(batch[i : i + 1], experts=experts[:, i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    other = network(batch, experts=experts.roll(1, dims=1))
    assert (together - other).abs().amax(dim=(1, 2, 3)).min() > 1e-3, "the experts make no difference"


def test_evaluation_is_deterministic_to_the_bit(make_network: Make) -> None:
    network, x = make_network(), pictures(4, 33, 50)
    assert torch.equal(network(x), network(x))


def test_training_draws_routing_noise(make_network: Make) -> None:
    network, x = make_network().train(), pictures(8, 16, 16)
    gates = [network.restore_and_route(x).routings[0].gates for _ in range(2)]
    assert not torch.equal(*gates)


@pytest.mark.parametrize("kind", sorted(expert_kinds()))
@pytest.mark.parametrize("num_experts", [2, 3, 6])
def test_every_expert_count_and_kind_trains(make_network: Make, kind: str, num_experts: int) -> None:
    network = make_network(expert_kind=kind, num_experts=num_experts).train()
    every = torch.arange(num_experts).expand(7, -1)[..., None]  # picture i takes expert i
    restoration = network.restore_and_route(torch.rand(num_experts, 3, 40, 33), experts=every)
    (F.l1_loss(restoration.restored, torch.rand(num_experts, 3, 40, 33)) + restoration.balance_loss).backward()
    silent = {name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9}
    # LayerNorm over one channel removes the spectral product; over two channels, it keeps little more than its sign.
    low_rank = {
        f"{name}.mixer."
        for name, module in network.named_modules()
        if isinstance(module, Expert) and module.reduce.out_channels <= 2 and kind == "spectral"
    }
    normalised = ("query.weight", "query_mix.weight", "query_mix.bias", "norm.weight")
    assert silent <= {prefix + name for prefix in low_rank for name in normalised}, silent


def test_straight_through_gating_keeps_the_output_and_trains_the_router(make_network: Make) -> None:
    x, target = torch.rand(3, 3, 32, 32), torch.rand(3, 3, 32, 32)
    outputs, gradients = {}, {}
    for gating in ("published", "straight_through"):
        network = make_network(gating=gating)
        outputs[gating] = network(x)
        F.l1_loss(outputs[gating], target).backward()
        routers = [p.grad for name, p in network.named_parameters() if ".router." in name]
        gradients[gating] = max(float(g.abs().max()) for g in routers if g is not None)
    assert torch.equal(outputs["published"], outputs["straight_through"])
    assert gradients["published"] < 1e-3 * gradients["straight_through"]


def test_frozen_high_pass_stays_as_it_is() -> None:
    network = MoCEIR(freeze_high_pass=True)
    before = network.frequency.high_pass.weight.clone()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5)
    network.restore_and_route(torch.rand(2, 3, 16, 16)).balance_loss.backward()
    optimizer.step()
    assert torch.equal(network.frequency.high_pass.weight, before)
    assert before[0, 0].tolist() == [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]


def test_config_rebuilds_the_network() -> None:
    network = MoCEIR(dim=4, num_heads=(1, 2, 2, 4), num_experts=3, topk=2, mac_budget=20)
    twin = MoCEIR(**network.config)
    assert twin.config == network.config
    twin.load_state_dict(network.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 7}, "dim must be even"),
        ({"num_experts": 1}, "num_experts must be 2 to 6, got 1"),
        ({"num_experts": 7}, "num_experts must be 2 to 6, got 7"),
        ({"topk": 5}, "topk must be 1 to num_experts = 4"),
        ({"expert_kind": "magic"}, "expert_kind must be one of spectral, window"),
        ({"gating": "soft"}, "gating must be one of published, straight_through"),
        ({"num_heads": (1, 2, 4)}, "num_heads needs 4 numbers"),
        ({"num_heads": (3, 2, 4, 8)}, r"num_heads\[0\] must divide"),
        ({"num_decoder_blocks": (1,)}, "num_decoder_blocks needs 3 numbers"),
        ({"num_blocks": (2,)}, "at least two levels"),
        ({"num_blocks": (2, 2, -1, 4)}, "must not be negative"),
        ({"num_decoder_blocks": (0, 0, 0)}, "num_decoder_blocks needs at least one block"),
        ({"window_sizes": (4, 8)}, "window_sizes needs a positive size for each of 4 experts"),
        (
            {"mac_budget": 29},
            r"mac_budget of 29 GMACs: the cheapest route costs 29\.0222 at 1280×720; set at least that",
        ),
    ],
)
def test_impossible_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoCEIR(**arguments)


@pytest.mark.parametrize("mac_budget", [float("inf"), float("nan")])
def test_budget_is_finite(mac_budget: float) -> None:
    with pytest.raises(ValueError, match="mac_budget"):
        MoCEIR(mac_budget=mac_budget)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "x",
    [
        torch.rand(0, 3, 8, 8),
        torch.rand(1, 3, 0, 8),
        torch.rand(3, 8, 8),
        torch.rand(1, 1, 8, 8),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
    ],
)
def test_wrong_input_is_explained(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected a floating-point \(B, 3, H, W\) tensor"):
        MoCEIR()(x)
