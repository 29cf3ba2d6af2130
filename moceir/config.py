"""Locates the Hydra configuration: beside the package in a checkout, or inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moceir.extras import require


def config_dir() -> str:
    """Return the absolute path of ``conf/``.

    Raises:
        FileNotFoundError: when the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return str(folder)
    raise FileNotFoundError(f"no conf/train.yaml in or beside {package}; install moceir again")


def build(part: str, overrides: list[str]) -> Any:
    """Build an object that the training configuration describes, without a training run.

    Args:
        part: key of the object in the configuration, such as ``data.sets``.
        overrides: overrides in the syntax of Hydra's command line.

    Raises:
        ValueError: when an override is invalid, or Hydra is missing.
    """
    require("the configuration", "train", "hydra")
    # Hydra takes half a second to import, so commands that only restore pictures do not import it.
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(config_dir(), version_base="1.3"):
            config = compose("train", overrides)
        return instantiate(OmegaConf.select(config, part), _convert_="all")
    except (HydraException, OmegaConfBaseException, AssertionError) as error:  # some overrides fail Hydra's assertions
        message = " ".join(str(error).partition("Config search path")[0].split())
        raise ValueError(f"{' '.join(overrides)}: {message}") from error
