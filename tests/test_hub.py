"""Networks in the Hub's layout, without a network connection."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from conftest import pictures, randomise
from huggingface_hub import ModelCard
from safetensors import safe_open
from typer.testing import CliRunner

import moceir
from moceir.cli.main import app
from moceir.hub import OnHub
from moceir.inference.weights import SHIPPED

SMALL = {"dim": 4, "num_blocks": (1, 1), "num_decoder_blocks": (1,), "num_heads": (1, 2), "num_refinement_blocks": 0}


def test_a_folder_comes_back(tmp_path: Path) -> None:
    network = randomise(moceir.MoCEIR(**SMALL)).eval()  # type: ignore[arg-type]
    OnHub(network).save_pretrained(tmp_path / "folder")
    card = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: image-to-image" in card
    assert "library_name: moceir" in card
    again = OnHub.from_pretrained(tmp_path / "folder").network
    assert again.config == network.config
    x = pictures(1, 20, 30)
    assert torch.equal(again(x), network(x))
    with safe_open(tmp_path / "folder" / "model.safetensors", framework="pt") as file:
        about = file.metadata()
    assert about["modelspec.architecture"] == "moceir/MoCEIR"
    assert about["modelspec.implementation"].startswith("moceir ")


def test_a_folder_without_a_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.safetensors: no such file"):
        OnHub.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_torch_hub(name: str) -> None:
    network = torch.hub.load(str(Path(__file__).parents[1]), name, source="local")
    x = pictures(1, 20, 30)
    assert torch.equal(network(x), moceir.load_pretrained(name)(x))


def test_a_card_has_the_hubs_yaml_and_results(tmp_path: Path) -> None:
    row = {"name": "CBSD68/a.png", "task": "gaussian_25", "mac_budget": 30.0, "psnr": 29.5, "ssim": 0.8}
    rows = [row, {**row, "name": "CBSD68/b.png", "psnr": 30.5}, {**row, "mac_budget": 0.0, "psnr": 99.0}]
    (tmp_path / "scores.json").write_text(json.dumps(rows))
    arguments = ["publish", "hub", "-o", str(tmp_path / "hub"), "--scores", str(tmp_path / "scores.json")]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.pipeline_tag == "image-to-image"
    psnr, ssim = card.data.eval_results
    assert (psnr.dataset_name, psnr.metric_type, psnr.metric_value) == ("CBSD68, gaussian_25", "psnr", 30.0)
    assert ssim.metric_value == 0.8
    assert "# Model card: naf_mixture_30g" in card.text
    x = pictures(1, 20, 30)
    assert torch.equal(OnHub.from_pretrained(tmp_path / "hub").network(x), moceir.load_pretrained()(x))


def test_folders_for_catalogues(tmp_path: Path) -> None:
    network = randomise(moceir.MoCEIR(**SMALL)).eval()  # type: ignore[arg-type]
    moceir.save_network(network, tmp_path / "small.safetensors")
    arguments = ["-o", str(tmp_path), "--weights", str(tmp_path / "small.safetensors")]
    refused = CliRunner().invoke(app, ["publish", "openmodeldb", *arguments])
    assert "--url" in str(refused.exception)
    for catalogue in ("openmodeldb", "darktable"):
        run = CliRunner().invoke(app, ["publish", catalogue, *arguments, "--url", "https://example.org/files/"])
        assert run.exit_code == 0, run.output
    entry = json.loads((tmp_path / "data" / "models" / "1x-small.json").read_text())
    assert (entry["scale"], entry["architecture"]) == (1, "moceir")
    for resource in entry["resources"]:
        name = resource["urls"][0].removeprefix("https://example.org/files/")
        content = (tmp_path / name).read_bytes()
        assert (resource["size"], resource["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    about = json.loads((tmp_path / "denoise-small" / "config.json").read_text())
    assert {"id", "name", "description", "task", "backend", "version"} <= about.keys()
    assert about["id"] == "denoise-small"
    (side,) = about["attributes"]["input_sizes"]
    session = onnxruntime.InferenceSession(tmp_path / "denoise-small" / "model.onnx")
    assert [one.shape for one in session.get_inputs()] == [[1, 3, side, side]]
    assert "non-commercial" in (tmp_path / "denoise-small" / "README.md").read_text()
