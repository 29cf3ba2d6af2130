from __future__ import annotations

import pytest
import torch
from torch import nn

from moceir.networks.layers import ChannelNorm, Convolution, composed, depthwise, fold_norm, pointwise
from moceir.networks.strips import Halo


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (20, 13)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_wide_convolution_has_the_gradients_of_a_plain_one(size: tuple[int, int], bias: bool) -> None:
    wide = depthwise(6, 7, bias=bias).double()
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


@pytest.mark.parametrize("activation", ["none", "gelu", "silu"])
@pytest.mark.parametrize(
    "layer", [pointwise(6, 4, bias=True), depthwise(6, 3, bias=True), Convolution(6, 4, 2, stride=2)]
)
def test_inference_equals_training(layer: Convolution, activation: str) -> None:
    x = torch.randn(1, 6, 80, 100)  # large enough for oneDNN's kernels
    expected = layer(x, activation=activation)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x, activation=activation), expected)


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize(("top", "bottom"), [(0, 4), (1, 5), (2, 9), (5, 12), (0, 12)])
def test_a_strip_with_its_halo_equals_the_rows_of_the_whole(kernel: int, top: int, bottom: int) -> None:
    layer, x = depthwise(3, kernel, bias=True), torch.randn(1, 3, 12, 5)
    reach = layer.reach + 1  # one row more than the layer needs
    halo = Halo(min(reach, top), min(reach, 12 - bottom))
    left = halo.after(layer.reach)
    result = layer(x[:, :, top - halo.above : bottom + halo.below], halo)
    torch.testing.assert_close(result, layer(x)[:, :, top - left.above : bottom + left.below])


@pytest.mark.parametrize("channels", [1, 2, 8, 24])
def test_a_norm_is_the_same_in_inference_and_folded(channels: int) -> None:
    norm, layer = ChannelNorm(channels), pointwise(channels, 5, bias=True)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, channels, 4, 6) * 3 + 1
    expected = layer(norm(x))
    with torch.inference_mode():
        torch.testing.assert_close(layer(norm(x)), expected, atol=3e-4, rtol=1e-3)
    with torch.no_grad():
        both = composed(pointwise(5, 5, bias=False), layer)
        assert both.bias is not None
        after = fold_norm(norm, layer)
        norm.folded = True
        torch.testing.assert_close(after(norm(x)), expected, atol=3e-4, rtol=1e-3)
    torch.testing.assert_close(after(norm(x)), expected, atol=3e-4, rtol=1e-3)


@pytest.mark.parametrize("channels", [4, 16])
def test_a_norm_adds_1e_5_to_the_variance(channels: int) -> None:
    """The published network does; where pixels hardly differ, another number would change everything."""
    norm, x = ChannelNorm(channels), 1e-3 * torch.randn(2, channels, 4, 6)
    deviation = (x.var(dim=1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = (x - x.mean(dim=1, keepdim=True)) / deviation
    torch.testing.assert_close(norm(x).detach(), expected)
    with torch.inference_mode():
        torch.testing.assert_close(norm(x), expected)
        norm.folded = True
        torch.testing.assert_close(norm(x), x / deviation)
