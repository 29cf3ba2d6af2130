"""Restoring works without extras, and each feature that needs an extra names it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

import cv2
import numpy as np
import pytest

from moceir.extras import remedy
from moceir.pictures.arrays import read_picture, write_picture

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Code that hides all modules that do not belong to a slim installation's packages.
SLIM = """
import importlib.util, sys

BLOCKED = frozenset({blocked!r})

class Block:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError("No module named " + repr(name), name=name.partition(".")[0])

found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in BLOCKED else found(name, *rest)
sys.meta_path.insert(0, Block)
"""


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()  # type: ignore[index]


def closure(requirements: Iterable[str]) -> Iterator[str]:
    """Return the names of packages and of their dependencies."""
    seen: set[str] = set()
    todo = [name_of(one) for one in requirements]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            todo += [name_of(one) for one in requires(name) or [] if "extra ==" not in one]
        except PackageNotFoundError:  # the dependency is for another platform
            continue
    yield from seen


@pytest.fixture(scope="module")
def slim() -> str:
    """Return the code that must run first to simulate a slim installation."""
    kept = {*closure(PROJECT["dependencies"]), "moceir", "pip", "opencv-python"}
    modules = {name: {name_of(one) for one in of} for name, of in packages_distributions().items()}
    return SLIM.format(blocked=sorted(name for name, of in modules.items() if not of & kept))


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_a_slim_installation_restores(slim: str, tmp_path: Path, photograph: np.ndarray) -> None:
    write_picture(tmp_path / "a.png", photograph)
    (tmp_path / "b.heic").write_bytes(b"")
    code = slim + "from moceir.cli.main import main; main()"
    done = run(code, "restore", tmp_path, "-o", tmp_path / "out", "--texture", "0.5", "--filter")
    assert done.returncode == 0, done.stderr
    assert read_picture(tmp_path / "out" / "a.png").shape == photograph.shape
    assert "left out 1 .heic: b.heic; HEIC needs pillow_heif: pip install 'moceir[heic]'" in done.stderr


def test_features_that_need_an_extra_name_it(slim: str, tmp_path: Path) -> None:
    code = f"""{slim}
import moceir.cli.main
commands = (
    "train", "predict", "evaluate .", "macs", "demo", "serve", "sweep .", "export onnx -o x.onnx",
    "export openvino -o x.xml", "prepare check .", "evaluate . --data all",
    "worth", "publish hub -o x", "publish darktable -o x --url y",
)
for command in commands:
    try:
        moceir.cli.main.app(command.split(), standalone_mode=False)
    except ValueError as error:
        print(command + ":", error)
for module in ("hub", "training.module", "data.datamodule", "inspection", "cli.train"):
    try:
        __import__("moceir." + module)
    except ImportError as error:
        print(error)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "train: moceir train needs hydra: pip install 'moceir[train]'",
        "predict: moceir predict needs hydra: pip install 'moceir[train]'",
        "evaluate .: the configuration needs hydra: pip install 'moceir[train]'",
        "macs: counting multiply-adds needs fvcore: pip install 'moceir[train]'",
        "demo: the photograph chelsea.png needs skimage: pip install 'moceir[demo]'",
        "serve: moceir serve needs starlette: pip install 'moceir[demo]'",
        "sweep .: moceir sweep needs omegaconf: pip install 'moceir[train]'",
        "export onnx -o x.onnx: moceir export needs onnx: pip install 'moceir[export]'",
        "export openvino -o x.xml: moceir export needs onnx: pip install 'moceir[export]'",
        "prepare check .: the configuration needs hydra: pip install 'moceir[train]'",
        "evaluate . --data all: the configuration needs hydra: pip install 'moceir[train]'",
        "worth: moceir worth needs torchmetrics: pip install 'moceir[train]'",
        "publish hub -o x: moceir publish hub needs huggingface_hub: pip install 'moceir[hub]'",
        "publish darktable -o x --url y: moceir publish darktable needs onnx: pip install 'moceir[export]'",
        "moceir.hub needs huggingface_hub: pip install 'moceir[hub]'",
        "moceir.training needs lightning: pip install 'moceir[train]'",
        "moceir.data.datamodule needs lightning: pip install 'moceir[train]'",
        "moceir.inspection needs torchmetrics: pip install 'moceir[train]'",
        "moceir.cli.train needs hydra: pip install 'moceir[train]'",
    ]


def test_importing_moceir_loads_no_extra() -> None:
    """This also holds where the extras are installed."""
    extras = {name for part in PROJECT["optional-dependencies"].values() for name in map(name_of, part)}
    extras -= {"moceir", *closure(PROJECT["dependencies"])}
    modules = {name for name, of in packages_distributions().items() if {name_of(one) for one in of} & extras}
    assert {"lightning", "onnx", "hydra", "skimage", "fvcore"} <= modules
    done = run(f"import sys, moceir, moceir.cli.main; print(sorted({modules!r} & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_named_extras_exist() -> None:
    """Check the code and the documents."""
    root = Path(__file__).parents[1]
    files = [
        file for kind in ("moceir/**/*.py", "docs/**/*.md", "README.md", "conf/**/*.yaml") for file in root.glob(kind)
    ]
    named = {one for file in files for one in re.findall(r"(?:moceir|'\.)\[(\w+)\]", file.read_text(encoding="utf-8"))}
    assert {"train", "demo", "export"} <= named
    assert named <= {*PROJECT["optional-dependencies"]}
    assert remedy("a", "b", "c") == "a needs b: pip install 'moceir[c]'"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at Linux's libraries")
def test_no_library_of_a_desktop_is_needed() -> None:
    """OpenCV's plain wheel needs libGL, which slim containers lack."""
    with suppress(PackageNotFoundError):
        pytest.skip(f"opencv-python {version('opencv-python')} is in opencv-python-headless's place: make clean first")
    (library,) = Path(cv2.__file__).parent.glob("cv2*.so")
    needed = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
    assert "libc.so" in needed
    assert not re.search(r"libGL|libX11|libglib|libgthread", needed), needed
