"""Shared fixtures: reference data, networks whose routers disagree, and pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from jaxtyping import config, install_import_hook

ROOMS = ("networks", "losses", "engine")
"""Parts of moceir whose functions check types and shapes of arguments and results in their own tests."""
install_import_hook([f"moceir.{room}" for room in ROOMS], "typechecker.check")  # before the first import of moceir
config.update("jaxtyping_disable", True)

from native_tree import make_native_tree

from moceir import MoCEIR
from moceir.inference.weights import SHIPPED
from moceir.pictures.arrays import write_picture

if TYPE_CHECKING:
    from serving import Server


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed the random generators before each test, so that its result does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _checked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check types and shapes in the tests of :data:`ROOMS` that are not marked ``unchecked``."""
    unchecked = request.path.parent.name not in ROOMS or request.node.get_closest_marker("unchecked") is not None
    config.update("jaxtyping_disable", unchecked)
    yield
    config.update("jaxtyping_disable", True)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Return the folder of reference data; skip the test without it."""
    folder = os.environ.get("MOCEIR_REFERENCE")
    if not folder:
        pytest.skip("needs the reference data that MOCEIR_REFERENCE names")
    return Path(folder)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with miniatures of the eight datasets; tests must not change them."""
    root = tmp_path_factory.mktemp("native")
    make_native_tree(root)
    return root


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Return a folder of five pictures of 72×72 that a small network can learn from."""
    rng = np.random.default_rng(0)
    for index in range(5):
        small = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        write_picture(tmp_path / "photographs" / f"{index}.png", small.repeat(6, axis=0).repeat(6, axis=1))
    return tmp_path / "photographs"


def randomise(network: MoCEIR, seed: int = 0) -> MoCEIR:
    """Set all weights to random values, including the output's, so that every part of the network has an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = max(1, parameter[0].numel())
            parameter.copy_(noise * (0.1 if name == "output.weight" else fan_in**-0.5))
    return network


@pytest.fixture
def make_network() -> Callable[..., MoCEIR]:
    """Return a function that makes a randomised MoCEIR in evaluation mode from its arguments and a seed."""

    def make(*, seed: int = 0, **arguments: object) -> MoCEIR:
        return randomise(MoCEIR(**arguments), seed).eval()

    return make


def pictures(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Make pictures (count, 3, height, width) in [0, 1]: noise whose colour and contrast differ between pictures."""
    generator = torch.Generator().manual_seed(seed)
    colour, contrast = torch.rand(count, 3, 1, 1, generator=generator), torch.rand(count, 1, 1, 1, generator=generator)
    return colour + contrast * (torch.rand(count, 3, height, width, generator=generator) - colour)


@pytest.fixture
def photograph() -> np.ndarray:
    """Return a uint8 (60, 80, 3) RGB picture with structure and colour."""
    rows, columns = np.mgrid[0:60, 0:80]
    waves = [128 + 100 * np.sin(columns / (5 + c) + c) * np.cos(rows / (7 - c)) for c in range(3)]
    return np.stack(waves, axis=-1).round().astype(np.uint8)


@pytest.fixture(scope="module")
def server_weights() -> str:
    """Return the weights that a file's server uses; a file overrides this."""
    return SHIPPED[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, server_weights: str) -> Iterator[Server]:
    """Start a server for the tests of one file, with low limits: one worker, one waiting request, 1 MB, 1 megapixel."""
    from serving import Server  # needs an extra

    options = ("--port", 0, "--queue", 1, "--max-upload", 1, "--max-pixels", 1_000_000, "--timeout", 40)
    options += ("--weights", server_weights)
    server = Server(tmp_path_factory.mktemp("server"), *options)
    try:
        yield server.wait()
    finally:
        server.end()


@pytest.fixture
def file(tmp_path: Path, photograph: np.ndarray) -> Path:
    """Return the path of a picture file."""
    write_picture(tmp_path / "picture.png", photograph)
    return tmp_path / "picture.png"
