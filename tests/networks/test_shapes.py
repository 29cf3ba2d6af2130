"""Types and shapes in signatures are checked at run time while tests run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from jaxtyping import TypeCheckError

from moceir.engine.regions import Region
from moceir.losses.pixel import l1_loss
from moceir.networks.layers import channels_last
from moceir.networks.routing import balance_loss


@pytest.mark.parametrize(
    "call",
    [
        lambda: channels_last(torch.rand(3, 8, 8)),  # no batch
        lambda: balance_loss(torch.rand(2, 3), torch.rand(2, 4)),  # 3 experts, and 4
        lambda: l1_loss(torch.rand(1, 3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)),  # another type
        lambda: Region(0, 1, 0, 1, 1, 1).of([[1.0]]),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_shape_or_type_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(TypeCheckError):
        call()
