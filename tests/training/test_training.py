from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning import Callback, LightningModule, Trainer
from processes import forked
from safetensors.torch import load_file
from torch import nn

from moceir import MoCEIR, load_network, save_network
from moceir.cli.train import train
from moceir.config import config_dir
from moceir.training.optim import cosine_schedule
from moceir.training.signals import Stopped

PHOTOGRAPHS = ["data=photographs", "data.sets.photographs.validation=1"]
SMALL = [
    "network.dim=4",
    "network.num_blocks=[1,1]",
    "network.num_decoder_blocks=[1]",
    "network.num_heads=[1,2]",
    "network.num_refinement_blocks=1",
]


def run(output: Path, *overrides: object, data: Sequence[str] = PHOTOGRAPHS) -> float:
    everything = [*SMALL, *data, "debug=quick", "loss=l1", "optimizer.lr=5e-3", "data.crop=32"]
    everything.append(f"paths.output={output}")
    with initialize_config_dir(config_dir(), version_base="1.3"):
        config = compose("train", overrides=[*everything, *map(str, overrides)], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
    return train(config)


def test_training_learns_and_exports_what_restores(photographs: Path, tmp_path: Path) -> None:
    root = f"data.root={photographs}"
    repeat = "data.sets.photographs.repeat"
    untrained = run(tmp_path / "one", root, "trainer.max_epochs=1", f"{repeat}=1")
    trained = run(tmp_path / "two", root, "trainer.max_epochs=3", f"{repeat}=40", "callbacks.average.decay=0.9")
    assert trained > untrained + 1
    network = load_network(tmp_path / "two" / "network.safetensors")
    assert network.config == load_network(tmp_path / "two" / "checkpoints" / "best.ckpt").config
    assert network.config["num_blocks"] == [1, 1]
    assert (tmp_path / "two" / "metrics.csv").read_text().count("\n") > 3


def test_same_seed_same_weights(photographs: Path, tmp_path: Path) -> None:
    arguments = (f"data.root={photographs}", "data.sets.photographs.repeat=4")
    weights = []
    for name, workers in (("one", 0), ("two", 2)):
        run(tmp_path / name, *arguments, f"data.num_workers={workers}")
        weights.append(load_network(tmp_path / name / "network.safetensors").state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


class End(Callback):
    """Ends a run in a given hook of its second epoch; a hook of batches ends it in a given batch."""

    def __init__(self, how: str, hook: str, batch: int) -> None:
        self.how = how
        self.batch = batch
        setattr(self, hook, self._end)

    def _end(self, trainer: Trainer, pl_module: LightningModule, *rest: object) -> None:
        if trainer.current_epoch == 1 and (not rest or trainer.fit_loop.batch_idx == self.batch):
            if self.how == "exception":
                raise RuntimeError("an exception")
            os.kill(os.getpid(), getattr(signal, self.how))


LONGER = ["data.sets.photographs.repeat=4", "trainer.max_epochs=3"]  # four batches an epoch


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], dict]:
    """Return the last checkpoint of a run without interruption."""
    made: dict[str, dict] = {}

    def train_once(photographs: Path) -> dict:
        if not made:
            folder = tmp_path_factory.mktemp("whole")
            run(folder, f"data.root={photographs}", *LONGER)
            made.update(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True))
        return made

    return train_once


@pytest.mark.parametrize(
    ("how", "hook", "batch"),
    [
        ("exception", "on_train_batch_start", 0),
        ("exception", "on_train_batch_start", 2),
        ("SIGTERM", "on_train_batch_start", 2),
        ("SIGTERM", "on_train_batch_end", 1),  # waits until the step is complete
        ("SIGUSR1", "on_validation_epoch_start", 0),
        ("SIGTERM", "on_train_epoch_end", 0),
        ("SIGKILL", "on_train_batch_start", 3),
    ],
)
def test_a_run_that_ends_early_is_resumed_exactly(
    photographs: Path, tmp_path: Path, whole: Callable[[Path], dict], how: str, hook: str, batch: int
) -> None:
    arguments = [f"data.root={photographs}", *LONGER]
    end = [f"+callbacks.end._target_={__name__}.End", f"+callbacks.end.how={how}"]
    end += [f"+callbacks.end.hook={hook}", f"+callbacks.end.batch={batch}", "callbacks.last.minutes=0"]
    if how == "SIGKILL":
        assert forked(lambda: run(tmp_path / "ended", *arguments, *end)) == -signal.SIGKILL
    elif how == "exception":
        with pytest.raises(RuntimeError, match="an exception"):
            run(tmp_path / "ended", *arguments, *end)
    else:
        with pytest.raises(Stopped, match=how):
            run(tmp_path / "ended", *arguments, *end)
    last = tmp_path / "ended" / "checkpoints" / "last.ckpt"
    done = {"on_validation_epoch_start": 7, "on_train_epoch_end": 8, "on_train_batch_end": 6}
    assert torch.load(last, weights_only=True)["global_step"] == done.get(hook, 4 + batch)
    run(tmp_path / "resumed", *arguments, f"resume={last}")
    resumed, expected = torch.load(last, weights_only=True), whole(photographs)
    assert resumed["epoch"] == expected["epoch"] == 2
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(expected[part][name], resumed[part][name]) for name in expected[part])
    best = [
        one["callbacks"][
            "ModelCheckpoint{'monitor': 'val/psnr', 'mode': 'max', 'every_n_train_steps': 0, "
            "'every_n_epochs': 1, 'train_time_interval': None}"
        ]["best_model_score"]
        for one in (resumed, expected)
    ]
    assert best[0] == best[1], "every validation was made"


def test_last_is_the_last_and_best_is_the_best(photographs: Path, tmp_path: Path) -> None:
    """If the network learns nothing, the first epoch stays the best."""
    run(tmp_path, f"data.root={photographs}", "optimizer.lr=0", "trainer.max_epochs=3")
    epochs = {
        name: torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"]
        for name in ("best", "last")
    }
    assert epochs == {"best": 0, "last": 2}


def test_without_validation_the_last_weights_are_exported(photographs: Path, tmp_path: Path) -> None:
    without = "trainer.check_val_every_n_epoch=2", "data.sets.photographs.validation=0", "callbacks.best=null"
    for number, how in enumerate(without):
        assert np.isnan(run(tmp_path / str(number), f"data.root={photographs}", how))
    assert load_network(tmp_path / "0" / "network.safetensors").config["num_blocks"] == [1, 1]


def test_training_starts_from_other_weights(photographs: Path, tmp_path: Path) -> None:
    run(tmp_path / "one", f"data.root={photographs}")
    first = tmp_path / "one" / "network.safetensors"
    run(tmp_path / "two", f"data.root={photographs}", f"init_from={first}", "optimizer.lr=0", "callbacks.average=null")
    a, b = load_network(first).state_dict(), load_network(tmp_path / "two" / "network.safetensors").state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_only_named_parameters_learn(photographs: Path, tmp_path: Path) -> None:
    root = f"data.root={photographs}"
    run(tmp_path / "one", root)
    start = tmp_path / "one" / "network.safetensors"
    run(tmp_path / "two", root, f"init_from={start}", 'train_only=["output.*"]')
    before, after = load_file(start), load_file(tmp_path / "two" / "network.safetensors")
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"output"}


def test_what_shall_learn_must_exist(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train_only: no parameter is named nothing\.\*; the first is embed\."):
        run(tmp_path / "run", f"data.root={photographs}", 'train_only=["output.*","nothing.*"]')


def test_wrong_starts_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        run(tmp_path, "init_from=a", "resume=b")
    with pytest.raises(ValueError, match=r"^absent\.ckpt: no such file"):
        run(tmp_path, "init_from=absent.ckpt")
    save_network(MoCEIR(), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors: its network, .* is another than this one"):
        run(tmp_path, f"init_from={tmp_path / 'other.safetensors'}")
    with pytest.raises(ValueError, match=r"/nowhere: no such folder"):
        run(tmp_path, "data.root=/nowhere")
    with pytest.raises(ValueError, match=r"photographs \(no files of it in"):
        run(tmp_path, f"data.root={tmp_path}")


def test_without_data_the_packaged_photographs_are_used_and_it_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, "data.root=null", data=[])  # as in a user's first run
    assert "NO DATA FOLDER GIVEN: training on the few photographs that scikit-image ships" in caplog.text


def test_cosine_schedule_warms_up_and_ends_at_zero() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = cosine_schedule(optimizer, total_steps=100, warmup_steps=10, decay=1.0)
    rates = []
    for _ in range(101):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] < 0.1
    assert max(rates) == pytest.approx(1.0, abs=0.03)
    assert rates[50] == pytest.approx(0.5)
    assert rates[100] == 0
