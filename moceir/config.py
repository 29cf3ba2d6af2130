"""Where the Hydra configuration is: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path


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
