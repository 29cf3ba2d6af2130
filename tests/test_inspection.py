from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from moceir import MoCEIR, inspection
from moceir.data.degradations import Chain, GaussianNoise
from moceir.inspection import RouteTally, observe

TASKS = {"clean": Chain(steps=[]), "noisy": GaussianNoise(sigmas=[50])}


@pytest.fixture(scope="module")
def pictures() -> inspection.PairSet:
    return inspection.sample_pictures(side=40)


def test_tallies_add_up(make_network: Callable[..., MoCEIR]) -> None:
    network = make_network()
    routes = torch.tensor([[[0], [3], [3]]]).expand(network.num_layers, 3, 1)
    one, two = RouteTally(), RouteTally()
    one.add(["a", "a", "b"], routes, network.route_costs)
    two.add(["a"], routes[:, :1], network.route_costs)
    one.merge(two)
    assert one.pictures == {"a": 3, "b": 1}
    assert one.shares("a")[0].tolist() == pytest.approx([2 / 3, 0, 0, 1 / 3])
    cheap, dear = (float(network.route_costs.of(routes[:, i : i + 1])) / 1e9 for i in (0, 1))
    assert one.gmacs("a") == pytest.approx((2 * cheap + dear) / 3)
    assert one.gmacs() == pytest.approx((2 * cheap + 2 * dear) / 4)


def test_observations_match_the_network(make_network: Callable[..., MoCEIR], pictures: inspection.PairSet) -> None:
    network = make_network()
    seen = observe(network, pictures, TASKS)
    assert len(seen) == 2 * len(pictures.pairs)
    first = seen[0]
    clean = torch.from_numpy(pictures.pairs[0].open()[0].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        restoration = network.restore_and_route(clean)
    assert torch.equal(first.experts, torch.stack([r.experts[0] for r in restoration.routings]))
    error = (restoration.restored.clamp(0, 1) - clean).square().mean()
    assert first.psnr == pytest.approx(float(-10 * error.log10()), abs=1e-3)
    p = first.logits[0].softmax(0).tolist()
    assert float(first.entropy[0]) == pytest.approx(-sum(x * math.log2(x) for x in p), abs=1e-5)
    assert list(inspection.by_task(seen)) == ["clean", "noisy"]


def test_forced_experts_are_taken_and_cost_what_they_cost(
    make_network: Callable[..., MoCEIR], pictures: inspection.PairSet
) -> None:
    network = make_network(topk=2)
    seen = observe(network, pictures._replace(pairs=pictures.pairs[:1]), {"clean": TASKS["clean"]}, expert=3)
    assert (seen[0].experts == 3).all()


def test_layers_are_named_in_the_order_they_run() -> None:
    names = inspection.layer_names(MoCEIR())
    assert names == ["level 2.0", "level 2.1", "level 2.2", "level 2.3", "level 1.0", "level 1.1", "level 0.0"]
    assert [len(c) for c in inspection.complexities(MoCEIR())] == [4] * 7


def test_plots_show_what_was_observed(make_network: Callable[..., MoCEIR], pictures: inspection.PairSet) -> None:
    network = make_network()
    seen = observe(network, pictures, TASKS)
    usage = inspection.plot_usage(seen, network)
    shares = usage.axes[1].images[0].get_array()
    noisy = [one.experts[:, 0] for one in seen if one.task == "noisy"]
    expected = torch.nn.functional.one_hot(torch.stack(noisy), 4).float().mean(dim=0)
    torch.testing.assert_close(torch.tensor(shares.tolist()), expected)

    moved = inspection.plot_logits({0.0: seen[::2], 50.0: seen[1::2]}, network, "σ")
    line = moved.axes[0].lines[2].get_ydata()
    means = [torch.stack([o.logits[0].softmax(0)[2] for o in part]).mean() for part in (seen[::2], seen[1::2])]
    assert float(line[1]) == pytest.approx(float(means[1] - means[0]), abs=1e-6)

    assert len(inspection.plot_balance(seen, network).axes) == 7
    assert len(inspection.plot_entropy(seen, network).axes[0].lines) == 3
    forced = inspection.plot_forced(seen, {0: observe(network, pictures, TASKS, expert=0)})
    assert [line.get_ydata()[0] for line in forced.axes[0].lines] == [0, 0], "routed is the reference"
