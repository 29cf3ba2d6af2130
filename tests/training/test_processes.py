from __future__ import annotations

import pytest
import torch

from moceir.data.datamodule import RestorationDataModule
from moceir.training import processes
from moceir.training.processes import number_of_processes, strategy


@pytest.mark.parametrize(
    ("cores", "gpus", "batch", "expected"), [(2, 0, 8, 2), (6, 0, 8, 4), (64, 0, 8, 8), (3, 0, 7, 1), (2, 8, 32, 8)]
)
def test_as_many_as_share_a_batch(
    monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int, batch: int, expected: int
) -> None:
    monkeypatch.setattr(processes, "available_cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert number_of_processes(batch_size=batch) == expected


def test_one_process_needs_no_strategy() -> None:
    assert strategy(devices=1, num_nodes=1) == "auto"
    assert strategy(devices=1, num_nodes=2) == strategy(devices=2, num_nodes=1) == "ddp_find_unused_parameters_true"


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = RestorationDataModule(
        root=None,
        sets={},
        allow_missing=False,
        crop=8,
        batch_size=8,
        degradation=lambda picture, _: picture,
        validation_degradations={},
        validation_pictures=1,
        num_workers=0,
        seed=0,
    )
    data.setup("fit")
    monkeypatch.setattr(data, "_rank", lambda: (0, 3))
    with pytest.raises(ValueError, match=r"data\.batch_size=8 cannot be shared equally by 3 processes"):
        data.train_dataloader()
