"""Where the Hydra configuration is: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moceir.extras import require


def config_dir() -> str:
    """The absolute path of ``conf/``.

    Raises:
        FileNotFoundError: when the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return str(folder)
    raise FileNotFoundError(f"no conf/train.yaml in or beside {package}; install moceir again")


def build(part: str, overrides: list[str]) -> Any:
    """An object that the training configuration describes, without a training run.

    Args:
        part: its place in the configuration, as in ``data.sets``.
        overrides: as on Hydra's command line.

    Raises:
        ValueError: when an override does not fit, or Hydra is missing.
    """
    require("the configuration", "train", "hydra")
    # Hydra takes half a second, which commands that restore pictures need not spend.
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(config_dir(), version_base="1.3"):
            config = compose("train", overrides)
        return instantiate(OmegaConf.select(config, part), _convert_="all")
    except (HydraException, OmegaConfBaseException, AssertionError) as error:  # Hydra asserts on some words
        message = " ".join(str(error).partition("Config search path")[0].split())
        raise ValueError(f"{' '.join(overrides)}: {message}") from error
