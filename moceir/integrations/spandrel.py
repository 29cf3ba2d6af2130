"""MoCE-IR for spandrel, which chaiNNer and other programs use to identify a file of weights.

>>> import moceir.integrations.spandrel
>>> moceir.integrations.spandrel.register()
>>> spandrel.ModelLoader().load_from_file("moce_ir_30g.safetensors")
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from moceir.inference.weights import infer_config, rename_published
from moceir.networks.moce_ir import MoCEIR

try:
    from spandrel import MAIN_REGISTRY, Architecture, ArchSupport, ImageModelDescriptor, ModelTiling
except ImportError as error:
    raise ImportError("moceir.integrations.spandrel needs spandrel: pip install spandrel") from error

_MARKS = ("embed.weight", "frequency.mlp.0.weight", "decoder.0.0.moce.router.features.weight", "output.weight")


class MoCEIRArchitecture(Architecture[MoCEIR]):  # type: ignore[misc]  # spandrel is not a dependency
    """Files of :func:`moceir.save_network` and the authors' checkpoints, of any configuration that shapes tell.

    What shapes do not tell is as published: one expert for a picture, and the sizes of windows. The budget is 30 GMACs.
    """

    def __init__(self) -> None:
        super().__init__(id="MoCEIR", name="MoCE-IR", detect=is_moce_ir)

    def load(self, state_dict: Mapping[str, Tensor]) -> ImageModelDescriptor[MoCEIR]:
        """Load the network. Its route depends on the whole picture, so programs must not cut pictures into tiles."""
        state = _ours(state_dict)
        network = MoCEIR(**infer_config(state))
        network.load_state_dict(state)
        network.mac_budget = 30
        return ImageModelDescriptor(
            network.eval(),
            state,
            architecture=self,
            purpose="Restoration",
            tags=[f"{network.num_experts} experts"],
            supports_half=False,
            supports_bfloat16=False,
            scale=1,
            input_channels=3,
            output_channels=3,
            tiling=ModelTiling.INTERNAL,
        )


def is_moce_ir(state_dict: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors belong to a MoCE-IR network, under our names or the authors'."""
    return set(_MARKS) <= _ours(state_dict).keys()


def _ours(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = dict(state_dict)
    return state if set(_MARKS) <= state.keys() else rename_published(state)


def register() -> None:
    """Register MoCE-IR with spandrel's loaders; calling this repeatedly is harmless."""
    MAIN_REGISTRY.add(ArchSupport.from_architecture(MoCEIRArchitecture()), ignore_duplicates=True)
