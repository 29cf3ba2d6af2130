from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from conftest import pictures

from moceir import MoCEIR
from moceir.networks.routes import LayerBudget, select_experts

Make = Callable[..., MoCEIR]


def routes(network: MoCEIR, x: torch.Tensor) -> torch.Tensor:
    """Return routes (layers, B, k)."""
    with torch.inference_mode():
        return torch.stack([routing.experts for routing in network.restore_and_route(x).routings])


@pytest.mark.unchecked
def test_no_route_exceeds_30_gmacs_and_routes_that_fit_are_kept(make_network: Make) -> None:
    network = make_network()
    routers = [p for name, p in network.named_parameters() if ".router." in name]
    generator = torch.Generator().manual_seed(0)
    fitting = exceeding = 0
    for round in range(25):
        with torch.no_grad():
            for weight in routers:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 5)
        x = pictures(24, 16, 16, seed=round)
        network.mac_budget = None
        free = routes(network, x)
        network.mac_budget = 30
        budgeted = routes(network, x)
        assert network.route_costs.of(budgeted).max() <= 30e9
        fits = network.route_costs.of(free) <= 30e9
        assert torch.equal(budgeted[:, fits], free[:, fits])
        fitting += int(fits.sum())
        exceeding += int((~fits).sum())
    assert fitting > 50
    assert exceeding > 50, "the budget was never needed"


@pytest.mark.parametrize("topk", [1, 2, 3])
def test_selection_is_the_best_greedy_choice_that_fits(topk: int) -> None:
    generator = torch.Generator().manual_seed(topk)
    costs = torch.tensor([5, 1, 9, 3, 30])
    cheapest = int(costs.sort().values[:topk].sum())
    for _ in range(100):
        scores = torch.randn(1, 5, generator=generator)
        ceiling = int(torch.randint(cheapest, 50, (1,), generator=generator))
        picked = select_experts(scores, topk, LayerBudget(costs, torch.tensor([ceiling])))[0].tolist()

        expected: list[int] = []
        for _ in range(topk):  # the best expert with which a complete choice fits the budget
            possible = [
                set(choice)
                for choice in itertools.combinations(range(5), topk)
                if set(expected) <= set(choice) and int(costs[list(choice)].sum()) <= ceiling
            ]
            candidates = set().union(*possible) - set(expected)
            expected.append(max(candidates, key=lambda e: float(scores[0, e])))
        assert picked == expected


def test_budget_can_be_set_on_a_network_and_removed(make_network: Make) -> None:
    network, x = make_network(), pictures(8, 16, 16)
    free = routes(network, x)
    assert (network.route_costs.of(free) > 29.1e9).any()
    network.mac_budget = 29.1
    assert network.config["mac_budget"] == 29.1
    assert network.route_costs.of(routes(network, x)).max() <= 29.1e9
    network.mac_budget = None
    assert torch.equal(routes(network, x), free)


@pytest.mark.parametrize("topk", [1, 2, 3])
def test_budget_of_exactly_the_cheapest_route_leaves_that_route(make_network: Make, topk: int) -> None:
    network = make_network(topk=topk)
    network.mac_budget = network.route_costs.cheapest(topk) / 1e9
    taken = routes(network, pictures(4, 16, 16))
    assert torch.equal(taken.sort(dim=2).values, torch.arange(topk).expand(7, 4, topk))


def test_an_improbable_expert_still_works_when_the_budget_leaves_no_other(make_network: Make) -> None:
    network, x = make_network(), pictures(2, 32, 32)
    cheapest = torch.zeros(7, 2, 1, dtype=torch.int64)
    expected = network(x, experts=cheapest)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if ".router." in name:
                weight[0], weight[1:] = -1000.0, 1000.0  # logits differ by hundreds, for all signs
    torch.testing.assert_close(network(x, experts=cheapest), expected, atol=1e-3, rtol=0)


def test_budget_below_the_cheapest_route_is_refused() -> None:
    network = MoCEIR()
    with pytest.raises(ValueError, match=r"cheapest route costs 29\.0222"):
        network.mac_budget = 28.9
    assert network.mac_budget is None
