"""The examples, which do not use torch, restore pictures as the package does."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from test_export import naf

import moceir
from moceir.export.onnx import to_onnx
from moceir.export.openvino import save_openvino, to_openvino

EXAMPLES = Path(__file__).parents[2] / "examples"


def largest_step(path: Path, expected: np.ndarray) -> int:
    return int(np.abs(np.asarray(Image.open(path)).astype(int) - expected).max())


def test_python(photograph: np.ndarray, tmp_path: Path) -> None:
    code = (EXAMPLES / "onnx_restore.py").read_text()
    assert set(re.findall(r"^(?:import|from) (\w+)", code, re.M)) == {
        "__future__",
        "argparse",
        "numpy",
        "onnxruntime",
        "PIL",
    }
    network = moceir.load_pretrained()
    network.mac_budget = 30
    onnx.save(to_onnx(network), tmp_path / "model.onnx")
    Image.fromarray(photograph).save(tmp_path / "noisy.png")
    command = [sys.executable, str(EXAMPLES / "onnx_restore.py"), "model.onnx", "noisy.png", "restored.png"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("NAFMixture, moceir ")
    expected = moceir.Restorer(network, threads=1).restore(photograph)
    assert largest_step(tmp_path / "restored.png", expected) <= 1
    assert np.abs(expected.astype(int) - photograph).max() > 1  # the output differs from the input


def test_cpp(photograph: np.ndarray, tmp_path: Path) -> None:
    if shutil.which("g++") is None or shutil.which("make") is None:
        pytest.skip("needs g++ and make")
    make = ["make", "-C", str(EXAMPLES / "cpp"), f"PYTHON={sys.executable}", "CXX=g++", f"OUT={tmp_path / 'restore'}"]
    built = subprocess.run(make, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "warning" not in built.stderr
    network = naf()
    save_openvino(to_openvino(to_onnx(network)), tmp_path / "model.xml")
    Image.fromarray(photograph).save(tmp_path / "noisy.ppm")
    command = ["./restore", "model.xml", "noisy.ppm", "restored.ppm"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("NAFNet, moceir ")
    expected = moceir.Restorer(network, mac_budget=None, threads=1).restore(photograph)
    assert largest_step(tmp_path / "restored.ppm", expected) <= 1
    assert np.abs(expected.astype(int) - photograph).max() > 1
    (tmp_path / "noisy.ppm").write_bytes(b"P5 1 1 255 ")
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, "noisy.ppm: not an 8-bit binary PPM" in run.stderr) == (1, True)
