from __future__ import annotations

import math

import torch

from moceir.networks.routing import Router, RoutingRules, balance_loss, importance_and_load


def test_balance_loss_is_equations_5_to_9() -> None:
    logits, noise = torch.randn(6, 4).double(), torch.randn(6, 4).double()
    complexity, topk = torch.tensor([0.1, 0.2, 0.4, 1.0]).double(), 2
    noisy = logits + noise / 4

    importance = [0.0] * 4
    load = [0.0] * 4
    for x in range(6):
        total = sum(math.exp(v) for v in logits[x].tolist())
        threshold = sorted(noisy[x].tolist())[-topk]
        for i in range(4):
            importance[i] += float(complexity[i]) * math.exp(float(logits[x, i])) / total
            z = (threshold - float(logits[x, i])) / (1 / 4)
            load[i] += 1 - 0.5 * (1 + math.erf(z / math.sqrt(2)))

    def variation(values: list[float]) -> float:
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
        return math.sqrt(variance) / mean

    expected = 0.5 * variation(importance) ** 2 + 0.5 * variation(load) ** 2
    assert math.isclose(
        float(balance_loss(*importance_and_load(logits, noisy, complexity, topk))), expected, rel_tol=1e-6
    )


def test_gates_are_the_softmax_where_an_expert_is_taken() -> None:
    router = Router(dim=3, frequency_dim=5, topk=2, complexity=torch.tensor([0.2, 0.5, 1.0]))
    routing = router(torch.rand(4, 3), torch.rand(4, 5), RoutingRules())
    assert torch.equal(routing.experts, routing.logits.topk(2).indices)
    taken = routing.logits.softmax(dim=1).gather(1, routing.experts)
    torch.testing.assert_close(routing.gates.gather(1, routing.experts), taken)
    assert int((routing.gates > 0).sum()) == 8


def test_noise_is_scaled_by_the_number_of_experts_and_moves_the_route() -> None:
    router = Router(dim=3, frequency_dim=5, topk=1, complexity=torch.ones(4))
    x, frequency = torch.rand(1, 3), torch.rand(1, 5)
    quiet = router(x, frequency, RoutingRules())
    noise = torch.zeros(1, 4)
    noise[0, (quiet.experts + 1) % 4] = 4 * float(quiet.logits.detach().max() - quiet.logits.detach().min()) + 1
    noisy = router(x, frequency, RoutingRules(noise=noise))
    assert int(noisy.experts) == (int(quiet.experts) + 1) % 4
    assert torch.equal(noisy.logits, quiet.logits)


def test_forced_experts_are_taken() -> None:
    router = Router(dim=3, frequency_dim=5, topk=1, complexity=torch.ones(4))
    forced = torch.tensor([[3], [0]])
    routing = router(torch.rand(2, 3), torch.rand(2, 5), RoutingRules(experts=forced))
    assert torch.equal(routing.experts, forced)
    assert torch.equal(routing.gates > 0, torch.tensor([[0, 0, 0, 1], [1, 0, 0, 0]]).bool())
