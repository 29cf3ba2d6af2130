from __future__ import annotations

import gc

import torch

from moceir.engine.allocator import Pages, memory
from moceir.networks.layers import channels_last


def test_pages_serve_the_next_strip_once_nothing_views_the_last() -> None:
    pages, x = Pages(), channels_last(torch.rand(1, 3, 4, 5))
    first = pages.copy(x)
    assert torch.equal(first, x)
    assert first.is_contiguous(memory_format=torch.channels_last)
    address, view = first.data_ptr(), first[:, :, 1:2]
    del first
    gc.collect()
    second = pages.copy(x + 1)
    assert second.data_ptr() != address
    assert torch.equal(view, x[:, :, 1:2])
    del view
    gc.collect()
    assert pages.copy(x).data_ptr() == address


def test_the_machine_has_memory() -> None:
    assert 100 << 20 < memory() < 1 << 60
