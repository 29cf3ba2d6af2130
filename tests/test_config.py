"""Every file in conf/ composes, and the objects that it names can be built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from hydra.utils import instantiate
from lightning import LightningDataModule, Trainer
from packaging.requirements import Requirement

from moceir import MoCEIR
from moceir.cli.options import load_sources
from moceir.config import build, config_dir
from moceir.losses.weighted import WeightedLoss
from moceir.networks.unet import UNet

CHOICES = sorted(
    f"{path.parent.relative_to(config_dir()).as_posix()}={path.stem}" for path in Path(config_dir()).glob("*/**/*.yaml")
)
# Optional: pip install 'moceir[sweep]'.
PLUGINS = ("launcher=slurm", "launcher=processes")


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_builds(choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with initialize_config_dir(config_dir(), version_base="1.3"):
        overrides = [choice, f"paths.output={tmp_path}", "name=test", "loss.terms.perceptual.weights=random"]
        try:
            config = compose("train", overrides=overrides, return_hydra_config=True)
        except MissingConfigException as error:
            if choice not in PLUGINS:
                raise
            pytest.skip(f"needs a plugin of Hydra that is not installed ({error})")
    HydraConfig.instance().set_config(config)
    assert isinstance(instantiate(config.network), UNet)
    assert isinstance(instantiate(config.data), LightningDataModule)
    assert callable(instantiate(config.optimizer))
    assert isinstance(instantiate(config.loss), WeightedLoss)
    callbacks = [instantiate(callback) for callback in config.callbacks.values()]
    loggers = [instantiate(logger) for logger in config.logger.values()]
    # Without the accelerator, that choice can only be composed, not built.
    if config.trainer.accelerator == "cpu":
        assert isinstance(instantiate(config.trainer, callbacks=callbacks, logger=loggers), Trainer)


@pytest.mark.parametrize("recipe", sorted(path.stem for path in Path(config_dir()).glob("experiment/*.yaml")))
def test_a_recipe_trains_with_other_data_and_degradations(recipe: str) -> None:
    for data, degradation in (("photographs", "noise"), ("pairs_table", "real")):
        build("data", [f"experiment={recipe}", f"data={data}", f"degradation={degradation}", "data.root=."])


def test_network_defaults_and_configuration_agree() -> None:
    with initialize_config_dir(config_dir(), version_base="1.3"):
        network = instantiate(compose("train").network)
    assert network.config == MoCEIR().config


def test_a_multirun_knows_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra resolves the folder before a job exists, but the folder must still contain the stage's name."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    with initialize_config_dir(config_dir(), version_base="1.3"):
        config = compose("train", ["stage=stage2"], return_hydra_config=True)
    assert config.hydra.sweep.dir.startswith("runs/stage2_sweep/20")


@pytest.mark.parametrize("target", ["os.system", "posix.system", "subprocess.getoutput", "builtins.eval"])
def test_no_override_executes_what_it_names(tmp_path: Path, target: str) -> None:
    """Hydra 1.3.3 executed the target of an override."""
    code = f"open('{tmp_path}/executed', 'w')" if target.endswith("eval") else f"touch {tmp_path}/executed"
    with pytest.raises(ValueError, match=r"^data=wed \+data.*") as caught:
        load_sources("wed", [f'+data.sets.evil={{_target_: {target}, _args_: ["{code}"]}}'])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_versions_of_hydra_that_execute_overrides_are_excluded() -> None:
    (hydra,) = re.findall(r'"(hydra-core.*?)"', (Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert not any(Requirement(hydra).specifier.contains(f"1.3.{patch}") for patch in range(8))
