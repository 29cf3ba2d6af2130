from __future__ import annotations

import torch
import torch.nn.functional as F

from moceir.networks.attention import channel_attention


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


def test_zero_maps_give_finite_values_and_gradients() -> None:
    query = torch.zeros(1, 2, 3, 3, requires_grad=True)
    out = channel_attention(query, torch.zeros(1, 2, 3, 3), torch.rand(1, 2, 3, 3), torch.ones(1, 1, 1))
    out.sum().backward()
    assert out.isfinite().all()
    assert query.grad is not None
    assert query.grad.isfinite().all()
