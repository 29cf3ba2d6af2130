"""Runs commands as a user types them, in a separate process or, to save time, in this one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from moceir import MoCEIR, NAFNet, __version__, save_network
from moceir.cli.main import app
from moceir.inference.postprocess import bilateral_filter
from moceir.pictures.arrays import read_picture, write_picture


def moceir(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moceir", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_restore_names_unreadable_files_and_restores_the_others(photograph: np.ndarray, tmp_path: Path) -> None:
    write_picture(tmp_path / "in" / "a.png", photograph)
    write_picture(tmp_path / "in" / "deep" / "b.jpg", photograph)
    (tmp_path / "in" / "broken [1].png").write_bytes(b"broken")
    run = moceir("restore", tmp_path / "in", "-o", tmp_path / "out")
    assert run.returncode == 1
    assert "restored 2 of 3 pictures" in run.stderr
    assert "broken [1].png: not a readable picture" in run.stderr
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert written == ["a.png", "deep/b.jpg"]
    assert not np.array_equal(read_picture(tmp_path / "out" / "a.png"), photograph)


def test_bad_input_is_one_line_and_status_2(tmp_path: Path) -> None:
    run = moceir("restore", tmp_path / "absent", "-o", tmp_path)
    assert run.returncode == 2
    assert run.stderr.strip().startswith("error: ")
    assert "absent: no such file" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


def test_the_version_is_printed() -> None:
    run = moceir("--version")
    assert (run.returncode, run.stdout) == (0, f"moceir {__version__}\n")


def test_training_is_a_command_too(tmp_path: Path) -> None:
    """An invalid setting gives the same message as with the module, and only Hydra logs."""
    run = moceir("train", "data.crop=abc", f"paths.runs={tmp_path}")
    assert run.returncode == 2
    assert (run.stdout + run.stderr).count("data.crop=abc: a whole number of at least 1 is needed") == 1


def test_restore_options(photograph: np.ndarray, tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", photograph)
    save_network(MoCEIR(), tmp_path / "identity.safetensors")
    arguments = ["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    weights = ["--weights", str(tmp_path / "identity.safetensors")]
    run = CliRunner().invoke(app, [*arguments, *weights, "--filter", "--format", "BMP", "--mac-budget", "0"])
    assert run.exit_code == 0, run.output
    assert np.array_equal(read_picture(tmp_path / "out" / "a.bmp"), bilateral_filter(photograph))
    refused = CliRunner().invoke(app, [*arguments, "--format", "psd"])
    assert "--format psd: use one of PNG, JPEG" in str(refused.exception)
    refused = CliRunner().invoke(app, [*arguments, "--weights", "moce_ir_30g", "--mac-budget", "5"])
    assert "mac_budget of 5 GMACs: the cheapest route costs 29.0222" in str(refused.exception)
    refused = CliRunner().invoke(app, [*arguments, "--weights", "naf"])
    assert "naf: no such file; with moceir come naf_mixture_30g, naf_free_30g, moce_ir_30g" in str(refused.exception)


def test_macs_prints_parameters_experts_and_routes(tmp_path: Path) -> None:
    network = MoCEIR(num_blocks=(1, 1), num_decoder_blocks=(1,), num_heads=(1, 2), num_refinement_blocks=1)
    save_network(network, tmp_path / "small.safetensors")
    run = CliRunner().invoke(app, ["macs", "--weights", str(tmp_path / "small.safetensors")])
    assert run.exit_code == 0, run.output
    minimum = f"{network.route_costs.cheapest(1) / 1e9:.7f}"
    parameters = f"{sum(p.numel() for p in network.parameters()):,}"
    for expected in (minimum, parameters, "decoder.0.0", "forced to expert 3", "0.2737152"):
        assert expected in run.output


def test_evaluate_scores_an_identity_as_the_noise(photograph: np.ndarray, tmp_path: Path) -> None:
    write_picture(tmp_path / "clean" / "a.png", photograph)
    save_network(MoCEIR(), tmp_path / "identity.safetensors")
    arguments = ["evaluate", str(tmp_path / "clean"), "--weights", str(tmp_path / "identity.safetensors")]
    output = ["--json", str(tmp_path / "new" / "s.json")]
    run = CliRunner().invoke(app, [*arguments, "--sigma", "10", "--poisson", "100", "--mac-budget", "30", *output])
    assert run.exit_code == 0, run.output
    gaussian, poisson = json.loads((tmp_path / "new" / "s.json").read_text())
    assert gaussian["task"] == "gaussian_10"
    assert gaussian["degraded_psnr"] == pytest.approx(20 * np.log10(255 / 10), abs=0.1)
    assert gaussian["psnr"] == pytest.approx(gaussian["degraded_psnr"], abs=0.2)  # differs only by clamping
    assert poisson["task"] == "poisson_100"
    assert gaussian["gmacs"] <= 30
    assert len(gaussian["experts"]) == 7
    assert "within 30 GMACs" in run.output


def test_evaluate_a_network_without_routes(photograph: np.ndarray, tmp_path: Path) -> None:
    write_picture(tmp_path / "clean" / "a.png", photograph)
    save_network(NAFNet(dim=4, num_blocks=(1, 1), num_decoder_blocks=(1,)), tmp_path / "naf.safetensors")
    arguments = ["evaluate", str(tmp_path / "clean"), "--weights", str(tmp_path / "naf.safetensors"), "--sigma", "10"]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    assert "gaussian_10" in run.output


def test_evaluate_with_the_benchmark_s_degradations(photograph: np.ndarray, tmp_path: Path) -> None:
    write_picture(tmp_path / "clean" / "a.png", photograph)
    save_network(MoCEIR(), tmp_path / "identity.safetensors")
    arguments = ["evaluate", str(tmp_path / "clean"), "--weights", str(tmp_path / "identity.safetensors")]
    both = ["--degradation", "benchmark", "--mac-budget", "0", "--mac-budget", "30", "--json", str(tmp_path / "s.json")]
    run = CliRunner().invoke(app, [*arguments, *both])
    assert run.exit_code == 0, run.output
    scores = json.loads((tmp_path / "s.json").read_text())
    assert len(scores) == 2 * 11
    by_task = {score["task"]: score for score in scores}
    assert by_task["clean"]["psnr"] > 100  # dB; the picture is unchanged
    assert by_task["clean"]["filtered_psnr"] < 60  # the filter changes it, the network does not
    noisy, stored = by_task["gaussian_25"], by_task["gaussian_25_8bit"]
    assert 0 < stored["degraded_psnr"] - noisy["degraded_psnr"] < 3  # clipping reduces the noise


def test_demo_improves_the_photograph(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["demo", "-o", str(tmp_path)])
    assert run.exit_code == 0, run.output
    before, after = map(float, re.findall(r"([\d.]+) dB", run.output))
    assert after > before + 8
    assert read_picture(tmp_path / "comparison.png").shape == (300 + 32, 3 * 451, 3)


def test_serve_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner().invoke(app, ["serve", "--topk", "1"])
    assert "--topk goes with a file" in str(run.exception)
    monkeypatch.setattr("moceir.extras.find_spec", lambda _: None)
    run = CliRunner().invoke(app, ["serve"])
    assert "pip install 'moceir[demo]'" in str(run.exception)
