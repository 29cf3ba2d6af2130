"""Differences of VGG-19's features."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.error import URLError

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

log = logging.getLogger(__name__)

IMAGENET_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
"""torchvision's VGG-19; the name holds the beginning of its SHA-256, which is verified."""

# Layer -> output channels, and its key in torchvision's file and in the normalised one (Gatys et al., CVPR 2016).
_LAYERS = {
    "relu1_1": (64, "features.0", "2"),
    "relu1_2": (64, "features.2", "5"),
    "relu2_1": (128, "features.5", "9"),
    "relu2_2": (128, "features.7", "12"),
    "relu3_1": (256, "features.10", "16"),
    "relu3_2": (256, "features.12", "19"),
}


class PerceptualLoss(nn.Module):
    """Return the mean absolute difference of VGG-19's features, eq. 10, weighted over layers.

    Eq. 10 sums over channels; their mean, which is usual, keeps a layer's weight what it says whatever its width. The
    weights of VGG-19 are read when the loss is first computed.

    Args:
        weights: ``imagenet`` for torchvision's, fetched once and verified; the path of that file, or of a normalised
            VGG-19; ``random`` for untrained ones, which are good for tests alone.
        layers: those that are compared, in this order.
        layer_weights: one for each.

    Raises:
        ValueError: when a layer is unknown, or the numbers of layers and weights differ.
    """

    def __init__(
        self,
        *,
        weights: str,
        layers: Sequence[str] = ("relu1_2", "relu2_2", "relu3_2"),
        layer_weights: Sequence[float] = (0.1, 0.6, 0.3),
    ) -> None:
        super().__init__()
        if set(layers) - set(_LAYERS) or not layers or len(layers) != len(layer_weights):
            raise ValueError(
                f"layers={list(layers)} with layer_weights={list(layer_weights)}: give each of some of {list(_LAYERS)} "
                "a weight"
            )
        self.weights = weights
        self.layer_weights = dict(zip(layers, layer_weights, strict=True))
        self.network: VGG19 | None = None

    def forward(self, restored: Float[Tensor, "b 3 h w"], clean: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """Return the loss of pictures in [0, 1] of at least 4 × 4 pixels.

        Raises:
            ValueError: when the weights cannot be had, or do not reach the last layer.
        """
        if self.network is None:
            self.network = VGG19(weights=self.weights, layers=list(self.layer_weights)).to(clean.device)
        with torch.no_grad():
            expected = self.network(clean)
        seen = self.network(restored)
        terms = [weight * F.l1_loss(seen[name], expected[name]) for name, weight in self.layer_weights.items()]
        return torch.stack(terms).sum()


class VGG19(nn.Module):
    """The first layers of VGG-19, up to the last requested layer.

    Args:
        weights: see :class:`PerceptualLoss`.
        layers: names of layers.

    Raises:
        ValueError: when the weights cannot be had, or do not reach the last layer.
    """

    def __init__(self, *, weights: str, layers: Sequence[str]) -> None:
        super().__init__()
        names = list(_LAYERS)
        self._names = names[: max(map(names.index, layers)) + 1]
        state = _random_state() if weights == "random" else _read(weights)
        self._normalised = "0.weight" in state
        first = _tensors(state, "0", (3, 3, 1, 1), weights) if self._normalised else _imagenet_normalisation()
        # Buffers that are not kept: they are no part of what is trained, and 2 MB in each checkpoint.
        tensors = [first]
        width = 3
        for name in self._names:
            channels, *keys = _LAYERS[name]
            tensors.append(_tensors(state, keys[self._normalised], (channels, width, 3, 3), weights))
            width = channels
        for number, (weight, bias) in enumerate(tensors):
            self.register_buffer(f"weight{number}", weight, persistent=False)
            self.register_buffer(f"bias{number}", bias, persistent=False)

    def forward(self, picture: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b _ _ _"]]:
        """Map pictures in [0, 1] to the activations of every requested layer."""
        x = F.conv2d(picture, self.get_buffer("weight0"), self.get_buffer("bias0"))
        found = {}
        for number, name in enumerate(self._names, start=1):
            if name in ("relu2_1", "relu3_1"):
                x = F.max_pool2d(x, 2, ceil_mode=self._normalised)
            x = F.pad(x, (1, 1, 1, 1), mode="reflect" if self._normalised else "constant")
            x = F.relu(F.conv2d(x, self.get_buffer(f"weight{number}"), self.get_buffer(f"bias{number}")))
            found[name] = x
        return found


def _read(weights: str) -> dict[str, Tensor]:
    path = Path(weights).expanduser()
    remedy = (
        f"fetch {IMAGENET_URL} elsewhere and give the file's path (loss.terms.perceptual.weights=FILE), or train "
        "without this term (loss.weights.perceptual=0)"
    )
    try:
        if weights == "imagenet":
            return torch.hub.load_state_dict_from_url(
                IMAGENET_URL, check_hash=True, map_location="cpu", weights_only=True
            )
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"{weights}: no such file; {remedy}") from error
    except (URLError, OSError) as error:
        raise ValueError(f"the weights of VGG-19 could not be fetched ({error}); {remedy}") from error
    except Exception as error:  # unpickling raises many kinds
        raise ValueError(f"{weights}: not a readable VGG-19 state dict ({error}); {remedy}") from error


def _tensors(state: dict[str, Tensor], key: str, shape: tuple[int, ...], source: str) -> tuple[Tensor, Tensor]:
    weight, bias = state.get(f"{key}.weight"), state.get(f"{key}.bias")
    if weight is None or bias is None or weight.shape != shape or bias.shape != shape[:1]:
        found = "nothing" if weight is None else f"{tuple(weight.shape)}"
        raise ValueError(
            f"{source}: {key}.weight should be {shape}, but is {found}; choose layers that are in the file "
            "(loss.terms.perceptual.layers), or another file"
        )
    return weight.float(), bias.float()


def _imagenet_normalisation() -> tuple[Tensor, Tensor]:
    """Build a 1×1 convolution that computes (x - mean) / std of each channel."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return torch.diag(1 / std)[:, :, None, None], -mean / std


def _random_state() -> dict[str, Tensor]:
    log.warning("RANDOM VGG-19 WEIGHTS: this perceptual loss is good for tests alone")
    generator = torch.Generator().manual_seed(0)
    state, width = {}, 3
    for channels, key, _ in _LAYERS.values():
        state[f"{key}.weight"] = torch.randn(channels, width, 3, 3, generator=generator) * (2 / (9 * width)) ** 0.5
        state[f"{key}.bias"] = torch.zeros(channels)
        width = channels
    return state
