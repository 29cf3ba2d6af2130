"""The built wheel works outside the checkout: it carries the configuration and the weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
SMOKE = """
import sys
from pathlib import Path
import moceir
import numpy as np
from hydra import compose, initialize_config_dir
from moceir.config import config_dir

installed = Path(sys.argv[1])
assert installed in Path(moceir.__file__).parents, moceir.__file__
assert installed in Path(config_dir()).parents, config_dir()
restored = moceir.Restorer(moceir.load_pretrained()).restore(np.full((20, 30, 3), 99, np.uint8))
assert restored.shape == (20, 30, 3)
with initialize_config_dir(config_dir(), version_base="1.3"):
    assert compose("train", overrides=["network/experts=window"]).network.expert_kind == "window"
    assert compose("train", overrides=["sweep=optuna"])
assert (installed / "moceir" / "serve" / "page" / "page.js").is_file()
import hydra_plugins.moceir_optuna as plugin
assert installed in Path(plugin.__file__).parents, plugin.__file__
sys.argv = ["moceir", "--help"]
from moceir.cli.main import main
main()
"""


def test_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    def run(*command: object) -> None:
        result = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr

    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", CHECKOUT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    installed = tmp_path / "installed"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", installed, wheel)
    smoke = f"import sys; sys.path.insert(0, {str(installed)!r})\n{SMOKE}"
    run(sys.executable, "-c", smoke, installed)
