from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moceir.networks.experts import AttentionMixer, Expert, SpectralMixer, expert_kinds


def windows(x: Tensor, size: int) -> list[tuple[slice, slice]]:
    height, width = x.shape[-2:]
    return [
        (slice(top, top + size), slice(left, left + size))
        for top in range(0, height, size)
        for left in range(0, width, size)
    ]


def test_spectral_mixing_is_a_circular_convolution_in_each_window() -> None:
    mixer = SpectralMixer(rank=2, window=4)
    query, key, value = (torch.randn(2, 2, 6, 9) for _ in range(3))
    padded_query, padded_key = (F.pad(x, (0, 3, 0, 2)) for x in (query, key))
    convolved = torch.zeros_like(padded_query)
    for rows, columns in windows(padded_query, 4):
        q, k = padded_query[..., rows, columns], padded_key[..., rows, columns]
        for dy in range(4):
            for dx in range(4):
                shifted = torch.roll(k, (dy, dx), dims=(2, 3))
                convolved[..., rows, columns] += q[..., dy, dx, None, None] * shifted
    expected = mixer.norm(convolved[..., :6, :9]) * value
    torch.testing.assert_close(mixer.mix(query, key, value), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(8, 12), (6, 9), (1, 1)])
def test_window_attention_sees_its_window_and_no_padding(size: tuple[int, int]) -> None:
    mixer = AttentionMixer(rank=3, window=4)
    query, key, value = (torch.randn(2, 3, *size) for _ in range(3))
    expected = torch.zeros_like(value)
    for rows, columns in windows(value, 4):
        q, k, v = (x[..., rows, columns].flatten(2).mT for x in (query, key, value))
        mixed = (q @ k.mT / 3**0.5).softmax(dim=-1) @ v
        expected[..., rows, columns] = mixed.mT.reshape(expected[..., rows, columns].shape)
    torch.testing.assert_close(mixer.mix(query, key, value), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", sorted(expert_kinds()))
def test_expert_is_a_modulated_update(kind: str) -> None:
    expert = Expert(dim=4, rank=2, window=4, kind=kind)
    x, shared = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    update = expert.mixer(expert.reduce(x)) * F.silu(expert.modulate(shared))
    torch.testing.assert_close(expert(x, shared), expert.expand(update))
