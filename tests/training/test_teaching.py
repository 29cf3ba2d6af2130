"""Teachers choose the experts in training, and the routers learn their choice."""

from __future__ import annotations

import pytest
import torch
from conftest import randomise

from moceir import NAFMixture
from moceir.training.teaching import ByResult, ByTask, all_layers, router_loss


@pytest.fixture
def network() -> NAFMixture:
    torch.manual_seed(0)
    return randomise(NAFMixture(dim=4, num_blocks=(1, 1), num_decoder_blocks=(1,), widths=(0.5, 1, 1)))


def test_the_first_part_of_a_task_decides(network: NAFMixture) -> None:
    teacher, x = ByTask(of_task={"clean": 0, "motion": 2}, weight=1), torch.rand(3, 3, 8, 8)
    assert teacher.experts(network, x, x, ["motion+camera", "clean", "motion"]).tolist() == [2, 0, 2]


def test_experts_of_one_task_take_turns(network: NAFMixture) -> None:
    teacher, x = ByTask(of_task={"clean": [0, 2], "motion": 1}, weight=1), torch.rand(5, 3, 8, 8)
    assert teacher.experts(network, x, x, ["clean", "clean", "motion", "clean", "clean"]).tolist() == [0, 2, 1, 2, 0]


@pytest.mark.parametrize(("task", "expert"), [("rain", "None"), ("clean", r"\[3\]"), ("jpeg", r"\[\]")])
def test_a_task_without_an_expert_is_named(network: NAFMixture, task: str, expert: str) -> None:
    teacher, x = ByTask(of_task={"clean": 3, "jpeg": []}, weight=1), torch.rand(1, 3, 8, 8)
    with pytest.raises(
        ValueError, match=rf"teacher\.of_task\.{task}={expert}: give the task one or more of the network's 3"
    ):
        teacher.experts(network, x, x, [task])


def test_the_best_expert_is_taken_and_a_price_makes_it_the_cheapest(network: NAFMixture) -> None:
    x = torch.rand(6, 3, 16, 16)
    noise = torch.zeros(1, 6, 3)
    each = [network(x, noise=noise, experts=torch.full((1, 6, 1), expert)).detach() for expert in range(3)]
    clean = torch.stack([each[i % 3][i] for i in range(6)])  # clean picture i is the output of expert i mod 3
    assert ByResult(db_per_gmac=0, weight=1).experts(network, x, clean, []).tolist() == [0, 1, 2, 0, 1, 2]
    assert ByResult(db_per_gmac=1e6, weight=1).experts(network, x, clean, []).tolist() == [0] * 6
    with pytest.raises(ValueError, match="finite number that is not negative"):
        ByResult(db_per_gmac=-1, weight=1)


@pytest.mark.parametrize(("levels", "price"), [(8, -30.07), (1, -48.09), (0.2, -50 - 11.14 / 10)])
def test_a_db_that_nobody_sees_counts_a_tenth(network: NAFMixture, levels: float, price: float) -> None:
    x = torch.rand(2, 3, 32, 32)
    first = network.eval()(x, experts=torch.zeros(1, 2, 1, dtype=torch.long)).detach()
    prices = ByResult(db_per_gmac=0, weight=1).prices(network, x, first + levels / 255)
    assert prices[:, 0].tolist() == pytest.approx([price] * 2, abs=0.02)


def test_routers_learn_what_the_teacher_chooses(network: NAFMixture) -> None:
    torch.manual_seed(1)
    expert = torch.tensor([0, 1, 2, 1])
    x = torch.rand(4, 3, 8, 8) * torch.tensor([0.1, 0.4, 0.7, 1])[:, None, None, None]
    optimizer = torch.optim.Adam(network.latent[0].parameters(), lr=0.01)
    losses = []
    for _ in range(200):
        loss = router_loss(network.restore_and_route(x, experts=all_layers(network, expert)), expert)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert network.eval().restore_and_route(x).route.flatten().tolist() == expert.tolist()
