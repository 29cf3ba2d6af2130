from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import safetensors.torch
import torch
from conftest import pictures, randomise
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from moceir import MoCEIR, NAFMixture, NAFNet, load_pretrained
from moceir.complexity import count_macs
from moceir.data.samples import sample_photograph
from moceir.engine import schedule as engine_module
from moceir.engine.schedule import Engine
from moceir.inference.weights import rename_published
from moceir.networks.layers import ChannelNorm, Convolution
from moceir.networks.routes import POST_FILTER_MACS_PER_PIXEL, REFERENCE_SIZE
from moceir.networks.strips import Block, Strip, Sums
from moceir.networks.unet import Part, UNet
from moceir.pictures.arrays import read_picture

Make = Callable[..., MoCEIR]
Size = Sequence[int]

SMALL = {"num_blocks": (1, 1, 1), "num_decoder_blocks": (1, 2), "num_heads": (1, 2, 4), "num_refinement_blocks": 1}


@pytest.fixture
def many_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make strips so small that even small pictures have several."""
    monkeypatch.setattr(engine_module, "STRIP_PIXELS", 2000)


def same(network: UNet, x: torch.Tensor, experts: torch.Tensor | None = None, **arguments: object) -> None:
    """Check that the engine's pictures and routes equal those of the network."""
    with torch.inference_mode():
        expected = network.double().restore_and_route(x.double(), experts=experts)
    actual = Engine(network.float(), **arguments).restore_and_route(x, experts=experts)
    scale = float(expected.restored.abs().max())
    assert torch.allclose(actual.restored.double() / scale, expected.restored / scale, rtol=0, atol=1e-5)
    for one, other in zip(actual.routings, expected.routings, strict=True):
        assert torch.equal(one.experts, other.experts)
        assert torch.allclose(one.logits.double(), other.logits, rtol=1e-4, atol=1e-5)
        assert torch.allclose(one.load.double(), other.load, atol=1e-4)
        assert torch.allclose(one.importance.double(), other.importance, atol=1e-4)


def test_the_engine_equals_the_published_network(reference: Path) -> None:
    path = reference / "golden" / "moce_ir_30g.safetensors"
    golden = safetensors.torch.load_file(path)
    published = {name.removeprefix("weight/"): t for name, t in golden.items() if name.startswith("weight/")}
    network = MoCEIR()
    network.load_state_dict(rename_published(published))
    restoration = Engine(network).restore_and_route(golden["eval/input"])
    assert (restoration.restored - golden["eval/output"]).abs().max() < 1e-5
    assert torch.equal(torch.stack([r.experts for r in restoration.routings]), golden["eval/expert_index"])


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (61, 50), (150, 97), (200, 64)])
@pytest.mark.parametrize("part", [None, 1.0, 0.0])  # of the machine's memory, for a large picture
@pytest.mark.usefixtures("many_strips")
def test_any_size_in_any_strips(
    make_network: Make, size: tuple[int, int], part: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if part is not None:
        monkeypatch.setattr(engine_module, "LARGE", 0)
        monkeypatch.setattr(engine_module, "PART_OF_MEMORY", part)
    network = make_network(**SMALL)
    assert sum(len(list(rows)) for rows in Engine(network)._levels(200, 64)) > 8
    same(network, pictures(1, *size))


@pytest.mark.parametrize("size", [(1, 1), (61, 50), (150, 97)])
@pytest.mark.parametrize("part", [None, 1.0, 0.0])  # of the machine's memory, for a large picture
@pytest.mark.parametrize("kind", [NAFNet, NAFMixture, partial(NAFMixture, neighbourhoods=(64, 64, 128, 0), grid=True)])
@pytest.mark.usefixtures("many_strips")
def test_the_second_network_in_strips(
    kind: Callable[..., UNet], size: tuple[int, int], part: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if part is not None:
        monkeypatch.setattr(engine_module, "LARGE", 0)
        monkeypatch.setattr(engine_module, "PART_OF_MEMORY", part)
    network = randomise(kind(dim=4, num_blocks=(2, 1, 1), num_decoder_blocks=(1, 2))).eval()
    same(network, pictures(2, *size))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "kind", [MoCEIR, NAFNet, NAFMixture, partial(NAFMixture, neighbourhoods=(64, 64, 64, 64), grid=True)]
)
@pytest.mark.usefixtures("many_strips")
def test_the_number_of_threads_changes_no_bit(kind: Callable[..., UNet]) -> None:
    network, x = randomise(kind()).eval(), pictures(1, 200, 90)
    one, *others = (Engine(network, threads=threads).restore_and_route(x).restored for threads in (1, 2, 5))
    assert all(torch.equal(one, other) for other in others)


def test_workers_leave_the_settings_of_other_threads_alone() -> None:
    before = torch.get_num_threads()
    engine = Engine(MoCEIR(**SMALL), threads=2)
    assert set(engine.workers.map(lambda _: torch.get_num_threads(), range(8))) == {1}
    assert torch.get_num_threads() == before


class LocalContrast(Block):
    """The third network's block, which adds a 3×3 convolution, scaled with the picture's mean."""

    reaches = (0, 1)

    def __init__(self) -> None:
        super().__init__()
        self.find = Convolution(6, 6, kernel_size=3, padding=1)

    def summarise(self, strip: Strip, known: list[Any]) -> tuple[Sums, None]:
        return Sums((strip.halo.crop(strip.x).sum(dim=(1, 2, 3)), torch.tensor(float(strip.x[0].numel())))), None

    def update(self, strip: Strip, known: list[Any]) -> Tensor:
        total, count = known[0]
        return strip.halo.crop(strip.x) + (total / count).float()[:, None, None, None] * self.find(strip.x, strip.halo)


class Third(UNet):
    """A third network, which shows that the engine is not limited to the package's networks."""

    config: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.output = (Convolution(i, o, kernel_size=3, padding=1) for i, o in ((3, 6), (6, 3)))
        self.encoder = self.down = self.up = self.fuse = self.decoder = torch.nn.ModuleList()
        self.latent, self.refinement = torch.nn.ModuleList([LocalContrast()]), torch.nn.ModuleList([LocalContrast()])


@pytest.mark.unchecked
@pytest.mark.usefixtures("many_strips")
def test_a_third_network_needs_nothing_but_its_own_class() -> None:
    network = Third().eval()
    same(network, pictures(2, 101, 60))
    assert network.route_costs.experts == ()
    assert count_macs(network).totals()["maximum"].conv_matmul == network.route_costs.base


class ChangesThePicture(Third):
    """A network whose first block comes too early."""

    def parts(self) -> Iterator[Part]:
        yield Part("latent.0", "block", 0, self.latent[0])
        yield from super().parts()


def test_a_block_before_the_embedding_only_looks() -> None:
    with pytest.raises(ValueError, match="must not change the picture"):
        Engine(ChangesThePicture().eval()).restore_and_route(pictures(1, 20, 20))


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
@pytest.mark.usefixtures("many_strips")
def test_every_kind_of_network(make_network: Make, arguments: dict[str, object]) -> None:
    same(make_network(**{**SMALL, **arguments}), pictures(2, 100, 70))


@pytest.mark.usefixtures("many_strips")
def test_every_expert_and_a_batch_of_different_ones(make_network: Make) -> None:
    network = make_network(**SMALL)
    experts = torch.stack([torch.arange(4), torch.arange(4).flip(0), torch.tensor([2, 0, 3, 1])])[..., None]
    same(network, pictures(4, 40, 72), experts=experts)


def test_real_photographs_with_the_shipped_weights() -> None:
    network = load_pretrained()
    photograph = torch.from_numpy(read_picture(sample_photograph("chelsea.png"))).permute(2, 0, 1)[None].float() / 255
    noisy = photograph + torch.randn(photograph.shape) * 25 / 255
    same(network, noisy)


@register_flop_formula([torch.ops.mkldnn._convolution_pointwise, torch.ops.mkldnn._convolution_pointwise_])
def _fused(first: Size, second: Size, third: Size | None, *_: object, out_shape: Size, **__: object) -> int:
    weight = third if third is not None and len(third) == 4 else second  # the third, if the others are two maps
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


class Inline:
    """Runs strips in this thread, so that operations can be counted."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return map(function, items)


@pytest.mark.unchecked
@pytest.mark.parametrize("expert", [0, 3])
def test_the_engine_costs_no_more_than_the_network(expert: int) -> None:
    """At the reference size, folds save more than the rows that neighbouring strips both compute; torch counts both."""
    network = MoCEIR()
    engine = Engine(network)
    engine.workers = Inline()  # type: ignore[assignment]
    experts = torch.full((7, 1, 1), expert)
    with FlopCounterMode(display=False) as counter:
        engine.restore_and_route(torch.zeros(1, 3, *REFERENCE_SIZE), experts=experts)
    allowed = int(network.route_costs.of(experts)[0]) - POST_FILTER_MACS_PER_PIXEL * math.prod(REFERENCE_SIZE)
    assert 0.95 * allowed < counter.get_total_flops() / 2 < allowed


def test_the_second_network_stays_below_the_limit_in_strips() -> None:
    network = NAFNet()
    engine = Engine(network)
    engine.workers = Inline()  # type: ignore[assignment]
    with FlopCounterMode(display=False) as counter:
        engine.restore_and_route(torch.zeros(1, 3, *REFERENCE_SIZE))
    runs = counter.get_total_flops() / 2 + POST_FILTER_MACS_PER_PIXEL * math.prod(REFERENCE_SIZE)
    assert network.route_costs.base < runs - _means_of_norms(network) < 30e9


def _means_of_norms(network: NAFNet) -> int:
    """Count the products that compute means over channels, which the budget leaves out like all of normalisation."""
    height, width = REFERENCE_SIZE
    return sum(
        norm.normalized_shape[0] * (height >> part.level) * (width >> part.level)
        for part in network.parts()
        for norm in part.module.modules()
        if isinstance(norm, ChannelNorm)
    )


def test_no_route_exceeds_its_budget(make_network: Make) -> None:
    network = make_network()
    x = pictures(3, 40, 40)
    free = Engine(network)
    dearest = int(free.route_costs.of(_routes(free, x)).max())
    cheapest = free.route_costs.cheapest(1)
    budget = (dearest + cheapest) / 2e9
    assert cheapest < budget * 1e9 < dearest
    network.mac_budget = budget
    engine = Engine(network)
    assert engine.mac_budget == budget
    assert engine.route_costs.of(_routes(engine, x)).max() <= budget * 1e9
    with pytest.raises(ValueError, match=r"mac_budget of 1 GMACs: the cheapest route costs 29\.\d+ at 1280×720"):
        engine.mac_budget = 1


def _routes(engine: Engine, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([routing.experts for routing in engine.restore_and_route(x).routings])


def test_the_engine_keeps_its_own_weights(make_network: Make) -> None:
    network = make_network(**SMALL)
    engine = Engine(network)
    x = pictures(1, 40, 40)
    before = engine.restore_and_route(x).restored
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    assert torch.equal(engine.restore_and_route(x).restored, before)


@pytest.mark.unchecked
@pytest.mark.parametrize("x", [torch.zeros(3, 8, 8), torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 8, 8).byte()])
def test_other_tensors_are_refused(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected a floating-point \(B, 3, H, W\) tensor"):
        Engine(MoCEIR(**SMALL)).restore_and_route(x)
