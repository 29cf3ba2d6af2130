"""Loads networks from files and saves them.

Three kinds are read: our ``.safetensors`` (the configuration in the metadata), our Lightning checkpoints, and
published MoCE-IR checkpoints (the configuration inferred from names and shapes). Nothing in a file is executed, and
nothing is built that the tensors in it do not fill.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from moceir.networks.unet import UNet
from moceir.pictures.files import write_atomically

State = dict[str, Tensor]

#: The weights that come with the package. The first are the default.
SHIPPED = ("naf_mixture_30g", "naf_free_30g", "moce_ir_30g")

_FORMAT = "moceir"
_LARGEST = 1024
"""No width, count or window in a network's configuration is larger."""

#: The network in files without a name, which date from when there was only one.
_FIRST = "MoCEIR"

#: Published parameter names -> ours, applied in this order.
_PUBLISHED_NAMES = (
    (r"^patch_embed\.proj\.", "embed."),
    (r"^enc\.(\d+)\.0\.layers\.", r"encoder.\1."),
    (r"^enc\.(\d+)\.1\.body\.0\.", r"down.\1.0."),
    (r"^(latent|refinement)\.layers\.", r"\1."),
    (r"^freq_embed\.high_conv\.0\.conv\.", "frequency.high_pass."),
    (r"^freq_embed\.", "frequency."),
    (r"^dec\.(\d+)\.0\.body\.0\.", r"up.\1.0."),
    (r"^dec\.(\d+)\.1\.", r"fuse.\1."),
    (r"^dec\.(\d+)\.2\.layers\.", r"decoder.\1."),
    (r"^(decoder\..*)\.mixer\.", r"\1.cross_attention."),
    (r"\.mixer\.", ".attention."),
    (r"\.adapter\.experts\.(\d+)\.0\.body\.", r".moce.experts.\1.mixer."),
    (r"\.adapter\.experts\.(\d+)\.0\.proj\.0\.", r".moce.experts.\1.reduce."),
    (r"\.adapter\.experts\.(\d+)\.0\.proj\.1\.", r".moce.experts.\1.modulate."),
    (r"\.adapter\.experts\.(\d+)\.0\.proj\.2\.", r".moce.experts.\1.expand."),
    (r"\.adapter\.routing\.gate\.2\.", ".moce.router.features."),
    (r"\.adapter\.routing\.freq_gate\.", ".moce.router.frequency."),
    (r"\.adapter\.proj_out\.", ".moce.project."),
    (r"\.proj\.0\.", ".to_shared."),
    (r"\.proj\.1\.", ".to_routed."),
    (r"\.ffn\.project_in\.", ".feed_forward.expand."),
    (r"\.ffn\.dwconv\.", ".feed_forward.mix."),
    (r"\.ffn\.", ".feed_forward."),
    (r"\.norms\.0\.body\.", ".norm1."),
    (r"\.norms\.1\.body\.", ".norm2."),
    (r"\.norm\.body\.", ".norm."),
    (r"\.qkv_dwconv\.", ".qkv_mix."),
    (r"\.kv_dwconv\.", ".key_value_mix."),
    (r"\.q_dwconv\.", ".query_mix."),
    (r"\.kv\.", ".key_value."),
    (r"\.q\.", ".query."),
    (r"\.(project_out|proj_out)\.", ".project."),
)


class WeightsError(ValueError):
    """A file that holds no network this package can build; the message says what it is and what was expected."""


def load_pretrained(name: str = SHIPPED[0]) -> UNet:
    """A network with weights that come with the package, ready for evaluation.

    Args:
        name: one of :data:`SHIPPED`.

    Raises:
        WeightsError: when the name is another, or the file is not the one that was shipped, by its SHA-256 in
            ``SHA256SUMS`` beside it.
    """
    if name not in SHIPPED:
        raise WeightsError(f"{name}: no such weights come with moceir; there are {', '.join(SHIPPED)}")
    with resources.as_file(resources.files("moceir") / "weights") as folder:
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            raise WeightsError(f"{path}: no such file; install moceir again")
        found = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"
        if found not in (folder / "SHA256SUMS").read_text(encoding="ascii").splitlines():
            raise WeightsError(f"{path}: not the file that was shipped (its SHA-256 is another); install moceir again")
        return load_network(path)


def load_weights(weights: str, *, topk: int | None = None) -> UNet:
    """One of :data:`SHIPPED`, or else :func:`load_network` of a file.

    Raises:
        WeightsError: as they do.
        ValueError: when ``topk`` comes with a name, whose network has its own.
    """
    if weights not in SHIPPED:
        return load_network(weights, topk=topk)
    if topk is not None:
        raise ValueError("--topk goes with a file, --weights FILE")
    return load_pretrained(weights)


def load_network(path: str | Path, *, topk: int | None = None) -> UNet:
    """Read a network, ready for evaluation.

    Args:
        path: ``.safetensors`` of :func:`save_network`, a Lightning checkpoint of a training run, or a published
            MoCE-IR checkpoint (``.ckpt``, ``.pt`` or ``.pth``; as ``.safetensors``, under the published names).
        topk: experts a picture takes. A published checkpoint does not tell (None means 1); for the others None
            means as it was saved. Another value than the saved one removes the saved budget.

    Raises:
        WeightsError: when the file is something else; the message says what.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; with moceir come {', '.join(SHIPPED)}")
    state, kind, config = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    known = {one.__name__: one for one in _subclasses(UNet)}
    if kind not in known:
        raise WeightsError(f"{path}: holds a network {kind!r}; this program knows {', '.join(known)}")
    if config is None:
        state = rename_published(state)
        _check_published(path, state)
    try:
        config = infer_config(state) if config is None else config
        if topk not in (None, config.get("topk")):
            config = {**config, "topk": topk, "mac_budget": None}  # a budget for other routes does not apply to these
        _check_sizes(state, known[kind], config)
        network = known[kind](**config)
        network.load_state_dict(state)
    except Exception as error:  # a foreign configuration may be anything, and fail anywhere
        reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise WeightsError(f"{path}: does not hold a whole MoCE-IR network: {reason}") from error
    broken = not_finite(state)
    if broken:
        raise WeightsError(
            f"{path}: {broken} holds NaN or infinity, so nothing could be restored; the run had diverged"
        )
    return network.eval()


def _subclasses(kind: type[UNet]) -> Iterator[type[UNet]]:
    """Map the names of the imported networks to their classes; a file cannot cause anything else to be built."""
    for one in kind.__subclasses__():
        yield one
        yield from _subclasses(one)


def not_finite(state: State) -> str | None:
    """Name the first tensor that holds NaN or infinity; None when all are finite."""
    return next((name for name, tensor in state.items() if not tensor.isfinite().all()), None)


def _check_sizes(state: State, kind: type[UNet], config: dict[str, Any]) -> None:
    """Raise ValueError when a network of this configuration has other tensors, without allocating or building much."""
    too_large = [f"{name}={value}" for name, value in config.items() if max(_numbers(value), default=0) > _LARGEST]
    if too_large:
        raise ValueError(f"{', '.join(too_large)[:200]}, where {_LARGEST} is the most")
    blocks = sum(sum(_numbers(value)) for name, value in config.items() if "blocks" in name)
    if blocks > len(state):
        raise ValueError(f"its configuration has {blocks} blocks, but there are only {len(state)} tensors")
    with torch.device("meta"):  # shapes without memory
        expected = kind(**config).state_dict()
    for name, tensor in expected.items():
        if name not in state:
            raise ValueError(f"there is no tensor {name}")
        shapes = tuple(state[name].shape), tuple(tensor.shape)
        if shapes[0] != shapes[1]:
            raise ValueError(f"{name} is of shape {shapes[0]}, where its configuration needs {shapes[1]}")
    for name, tensor in state.items():
        if name not in expected:
            raise ValueError(f"tensor {name} has no place in it")
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise ValueError(f"{name} is {tensor.dtype}, {tensor.layout}, where plain real numbers are needed")
        if tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise ValueError(f"{name} repeats the same numbers; a file must hold them all")


def _numbers(value: Any) -> Iterator[int]:
    """Yield the whole numbers in a value of a configuration."""
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, int):
        yield value


def save_network(network: UNet, path: str | Path) -> None:
    """Write a network as ``.safetensors``, its configuration in the metadata, whole or not at all.

    Raises:
        ValueError: when the suffix is another.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: networks are saved as .safetensors")
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(path, safetensors.torch.save(state, metadata_of(network)), durable=True)


def metadata_of(network: UNet) -> dict[str, str]:
    """Build a weight file's metadata: what :func:`load_network` needs, and ModelSpec's keys for model catalogues."""
    name = type(network).__name__
    return {
        "format": _FORMAT,
        "network": name,
        "config": json.dumps(network.config),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"moceir/{name}",
        "modelspec.implementation": f"moceir {version('moceir')}",
        "modelspec.title": f"moceir {name}",
    }


def rename_published(state: State) -> State:
    """Rename published parameters to our names; drop an optional ``net.`` prefix and the complexity buffers."""
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix("net.")
        if name.endswith(".routing.complexity"):
            continue  # derived from the experts' sizes
        for pattern, replacement in _PUBLISHED_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _read_safetensors(path: Path) -> tuple[State, str, dict[str, Any] | None]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        state = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a readable .safetensors file ({error})") from error
    if metadata.get("format") != _FORMAT:
        return state, _FIRST, None
    try:
        config = json.loads(metadata["config"])
        if not isinstance(config, dict):
            raise TypeError(f"a {type(config).__name__}")
        return state, metadata.get("network", _FIRST), config
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path}: its metadata has no readable configuration of a moceir network") from error


def _read_checkpoint(path: Path) -> tuple[State, str, dict[str, Any] | None]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader of untrusted files raises whatever it stumbles over
        raise WeightsError(
            f"{path}: expected a .safetensors file or a checkpoint that holds plain tensors only; "
            f"this is {_describe(path)}"
        ) from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if not isinstance(state, dict):
        raise WeightsError(f"{path}: expected a checkpoint or a state dict, found a {type(state).__name__}")
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    config = checkpoint.get("network_config")
    if config is not None and not isinstance(config, dict):
        raise WeightsError(f"{path}: its network_config is a {type(config).__name__}, where a dictionary is needed")
    if config is not None:  # our training: drop what belongs to metrics and losses
        tensors = {
            name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")
        }
    return tensors, str(checkpoint.get("network", _FIRST)), config


def _describe(path: Path) -> str:
    """Describe what a file that torch cannot read seems to be."""
    start = path.read_bytes()[:512]
    if not start:
        return "an empty file"
    if start.startswith((b"PK", b"\x80")):
        return "a checkpoint that is damaged or holds other objects, which could execute code"
    return "text" if start.isascii() else "something else, or damaged"


def _check_published(path: Path, state: State) -> None:
    """Raise WeightsError when the renamed tensors do not belong to a published network."""
    needed = ("embed.weight", "output.weight", "decoder.0.0.moce.router.features.weight")
    missing = [name for name in needed if name not in state]
    if missing:
        found = ", ".join(list(state)[:3]) or "nothing"
        raise WeightsError(
            f"{path}: expected a moceir network, a moceir training checkpoint or published MoCE-IR weights; "
            f"found {len(state)} tensors ({found}, …)"
        )


def infer_config(state: State) -> dict[str, Any]:
    """Constructor arguments from the names and shapes of a published network, already renamed."""

    def count(prefix: str) -> int:
        found = {match[1] for match in (re.match(rf"{prefix}\.(\d{{1,4}})\.", name) for name in state) if match}
        count = next(number for number in range(len(found) + 1) if str(number) not in found)
        if count != len(found):
            raise ValueError(f"there is no {prefix}.{count}".replace("\\", ""))
        return count

    def heads(block: str) -> int:
        return len(state[f"{block}.temperature"])

    encoder_levels = count("encoder")
    decoder = list(reversed(range(count("decoder"))))
    return {
        "dim": state["embed.weight"].shape[0],
        "num_blocks": [*(count(rf"encoder\.{level}") for level in range(encoder_levels)), count("latent")],
        "num_decoder_blocks": [count(rf"decoder\.{step}") for step in decoder],
        "num_heads": [
            *(heads(f"encoder.{level}.0.attention") for level in range(encoder_levels)),
            heads("latent.0.attention"),
        ],
        "num_refinement_blocks": count("refinement"),
        "num_experts": state["decoder.0.0.moce.router.features.weight"].shape[0],
    }
