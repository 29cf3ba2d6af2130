from __future__ import annotations

import torch
import torch.nn.functional as F

from moceir.networks.attention import Gram, OverlappingGram, attend
from moceir.networks.layers import pointwise


def channel_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, temperature: torch.Tensor, *, folded: bool = False
) -> torch.Tensor:
    project = pointwise(value.shape[1], value.shape[1], bias=False)
    torch.nn.init.eye_(project.weight.data[:, :, 0, 0])
    gram = Gram.of(torch.cat([query, key], dim=1), len(temperature))
    return attend(gram.mixing(temperature), value, project, folded=folded)


def test_channel_attention_is_its_definition() -> None:
    query, key, value = (torch.randn(2, 8, 5, 6) for _ in range(3))
    temperature = torch.rand(4, 1, 1)
    expected = torch.empty_like(value)
    for head in range(4):
        channels = slice(2 * head, 2 * head + 2)
        q, k = (F.normalize(x[:, channels].flatten(2), dim=-1) for x in (query, key))
        mixed = (q @ k.mT * temperature[head]).softmax(dim=-1) @ value[:, channels].flatten(2)
        expected[:, channels] = mixed.reshape(2, 2, 5, 6)
    torch.testing.assert_close(channel_attention(query, key, value, temperature), expected)
    with torch.inference_mode():
        torch.testing.assert_close(channel_attention(query, key, value, temperature), expected)
        one = channel_attention(query[:1], key[:1], value[:1], temperature, folded=True)
        torch.testing.assert_close(one, expected[:1])


def test_sums_of_strips_that_share_queries_equal_those_of_the_whole() -> None:
    query, key = torch.randn(2, 1, 8, 9, 6, dtype=torch.float64)
    whole = Gram.of(torch.cat([query, key], dim=1), 2)
    parts = []
    for top, bottom in ((0, 3), (3, 5), (5, 9)):
        # Each strip contributes to the queries of its own rows and of adjacent rows; here, half of each neighbour's.
        rows = slice(max(0, top - 1), min(9, bottom + 1))
        own = torch.zeros_like(query)
        own[:, :, top:bottom] = query[:, :, top:bottom]
        if top:
            own[:, :, top - 1 : top] += 0.25 * query[:, :, top - 1 : top]
            own[:, :, top : top + 1] -= 0.25 * query[:, :, top : top + 1]
        if bottom < 9:
            own[:, :, bottom : bottom + 1] += 0.25 * query[:, :, bottom : bottom + 1]
            own[:, :, bottom - 1 : bottom] -= 0.25 * query[:, :, bottom - 1 : bottom]
        gram = Gram.of(torch.cat([own, key], dim=1)[:, :, rows], 2)
        keys = Gram.of(torch.cat([query, key], dim=1)[:, :, top:bottom], 2)[2]
        split = own[:, :, rows].unflatten(1, (2, 4))
        parts.append(OverlappingGram((gram[0], gram[1], keys, split[..., :2, :], split[..., -2:, :])))
    total = parts[0].plus(parts[1]).plus(parts[2])
    for one, other in zip(total[:3], whole, strict=True):
        torch.testing.assert_close(one, other)


def test_zero_maps_give_finite_values_and_gradients() -> None:
    query = torch.zeros(1, 2, 3, 3, requires_grad=True)
    out = channel_attention(query, torch.zeros(1, 2, 3, 3), torch.rand(1, 2, 3, 3), torch.ones(1, 1, 1))
    out.sum().backward()
    assert out.isfinite().all()
    assert query.grad is not None
    assert query.grad.isfinite().all()
