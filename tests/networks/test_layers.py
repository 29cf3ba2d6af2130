from __future__ import annotations

import pytest
import torch
from torch import nn

from moceir.networks.layers import WideDepthwise, depthwise


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (20, 13)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_wide_convolution_has_the_gradients_of_a_plain_one(size: tuple[int, int], bias: bool) -> None:
    wide = depthwise(6, 7, bias=bias).double()
    assert isinstance(wide, WideDepthwise)
    plain = nn.Conv2d(6, 6, 7, padding=3, groups=6, bias=bias).double()
    plain.load_state_dict(wide.state_dict())
    inputs = [torch.randn(2, 6, *size, dtype=torch.float64).requires_grad_() for _ in range(2)]
    with torch.no_grad():
        inputs[1].copy_(inputs[0])
    weight = torch.randn(2, 6, *size, dtype=torch.float64)
    for layer, x in zip((wide, plain), inputs, strict=True):
        (layer(x) * weight).sum().backward()
    assert torch.equal(wide(inputs[0]), plain(inputs[1]))
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-12)
    for one, other in zip(wide.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-12)
