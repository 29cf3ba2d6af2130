from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from moceir import MoCEIR, NAFMixture, NAFNet
from moceir.complexity import _CONV_MATMUL, _HANDLERS, Complexity, count_macs
from moceir.networks.costs import macs
from moceir.networks.unet import UNet

Make = Callable[..., MoCEIR]


@pytest.fixture(scope="module")
def report() -> Complexity:
    return count_macs(MoCEIR())


def test_forced_routes_cost_what_the_published_network_costs(report: Complexity) -> None:
    """The expected values were counted with fvcore on the published network at 3×720×1280."""
    gmacs = [report.forced(expert).conv_matmul / 1e9 for expert in range(4)]
    assert gmacs == [28.740096, 29.2681728, 30.4791552, 33.5204352]


def test_parameters_and_post_filter(report: Complexity) -> None:
    assert report.parameters == 571_001
    assert report.post_filter.conv_matmul == report.post_filter.full == 273_715_200


def test_full_convention_counts_more_everywhere_but_in_plain_convolutions(report: Complexity) -> None:
    for name, cost in ((name, part.cost) for name, part in report.parts.items()):
        plain = name.split(".")[0] in {"embed", "down", "up", "fuse", "output"}
        assert (cost.full == cost.conv_matmul) if plain else (cost.full > cost.conv_matmul), name
    assert all(expert.cost.full > expert.cost.conv_matmul for layer in report.experts.values() for expert in layer)


SMALL = {"num_blocks": (1, 1), "num_decoder_blocks": (2,), "num_heads": (1, 2), "num_refinement_blocks": 1}


@pytest.mark.parametrize("arguments", [{"num_experts": 3, "topk": 2}, {"expert_kind": "window"}, {"dim": 4}])
def test_costs_from_shapes_equal_the_count_of_fvcore(report: Complexity, arguments: dict[str, object]) -> None:
    network = MoCEIR(**SMALL, **arguments)
    for counted, costs in [(count_macs(network), network.route_costs), (report, MoCEIR().route_costs)]:
        assert (
            tuple(tuple(expert.cost.conv_matmul for expert in layer) for layer in counted.experts.values())
            == costs.experts
        )
        totals = counted.totals()
        assert totals["minimum"].conv_matmul == costs.cheapest(counted.topk)
        assert totals["minimum"].conv_matmul < totals["expected"].conv_matmul < totals["maximum"].conv_matmul


@pytest.mark.parametrize(
    ("size", "kind", "expert"), [((72, 104), "spectral", 3), ((61, 50), "spectral", 0), ((61, 50), "window", 3)]
)
def test_other_sizes_equal_a_direct_count(size: tuple[int, int], kind: str, expert: int) -> None:
    network = MoCEIR(**SMALL, expert_kind=kind).eval()
    report = count_macs(network, size)

    class Forced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x, experts=torch.full((2, 1, 1), expert))

    counter = FlopCountAnalysis(Forced(), torch.zeros(1, 3, *size)).set_op_handle(**_HANDLERS)
    operators = counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
    total = report.forced(expert) + report.routing
    assert total.conv_matmul == sum(macs for name, macs in operators.items() if name in _CONV_MATMUL)
    # Sizes that are computed while tracing count as element-wise operations on one element.
    assert total.full == pytest.approx(sum(operators.values()), abs=200)


def test_real_fft_product_and_norm_are_counted(report: Complexity) -> None:
    """Compare with a count by hand for one expert: rank 4, windows of 4, at a quarter of the resolution."""
    pixels, dim, rank, window = 180 * 320, 32, 4, 4
    conv_matmul = pixels * (3 * dim * rank + 4 * rank * rank + (9 + 2 * 49) * rank)
    transforms = 3 * 1.25 * pixels * rank * 4  # log2 16 points = 4
    spectra = 3 * pixels // window**2 * window * (window // 2 + 1) * rank
    norm, value, silu, modulate = (pixels * per for per in (5 * rank, rank, 4 * rank, rank))
    expert = next(iter(report.experts.values()))[0].cost
    assert expert.conv_matmul == conv_matmul
    scalars = 100  # sizes computed while tracing
    full = conv_matmul + transforms + spectra + norm + value + silu + modulate
    assert full <= expert.full <= full + scalars


@pytest.mark.parametrize(
    "network",
    [
        MoCEIR(**SMALL),
        MoCEIR(**SMALL, expert_kind="window"),
        NAFNet(dim=4),
        NAFMixture(dim=4),
        NAFMixture(dim=4, neighbourhoods=(64, 0, 0, 0), grid=True),
    ],
)
def test_torch_counts_what_is_known_from_shapes(network: UNet) -> None:
    """PyTorch's counter confirms the count from shapes, so this check does not depend on fvcore and its tracing."""
    size = (68, 96)
    experts = torch.zeros(network.num_layers, 1, 1, dtype=torch.int64) if network.num_layers else None
    with FlopCounterMode(display=False) as counter:
        network.eval().restore_and_route(torch.zeros(1, 3, *size), experts=experts)
    count = sum(macs(part.module, size[0] >> part.level, size[1] >> part.level) for part in network.parts())
    for part in network.parts():
        for expert in list(getattr(part.module, "experts", []))[1:]:
            count -= macs(expert, size[0] >> part.level, size[1] >> part.level)
    assert counter.get_total_flops() == 2 * count


def test_a_network_without_experts_has_one_route() -> None:
    network = NAFNet()
    report, costs = count_macs(network), network.route_costs
    assert not report.experts
    assert not costs.experts
    assert {total.conv_matmul for total in report.totals().values()} == {costs.base}
    assert report.parameters == 261_203
    assert costs.base < 30e9


def test_a_route_through_the_mixture_is_one_choice_for_all_blocks() -> None:
    network = NAFMixture(dim=4, neighbourhoods=(0, 64, 128, 0))
    report, costs = count_macs(network), network.route_costs
    assert len(costs.experts) == network.num_layers == 1
    routed = report.routing.conv_matmul + report.post_filter.conv_matmul
    for expert, cost in enumerate(costs.experts[0]):
        assert report.forced(expert).conv_matmul + routed == costs.base + cost < 30e9
    assert costs.cheapest(1) == report.totals()["minimum"].conv_matmul


def test_counting_leaves_the_network_as_it_was() -> None:
    network = MoCEIR(**SMALL).train()
    count_macs(network)
    assert all(module.training for module in network.modules())
