from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moceir import MoCEIR, load_network, load_pretrained, save_network
from moceir.inference.weights import WeightsError

Make = Callable[..., MoCEIR]


def same(a: MoCEIR, b: MoCEIR) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_shipped_weights_restore() -> None:
    network = load_pretrained()
    assert not network.training
    assert sum(p.numel() for p in network.parameters()) == 571_001
    clean = torch.full((1, 3, 64, 64), 0.5)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (network(noisy) - clean).square().mean() < 0.1 * (noisy - clean).square().mean()


def test_save_and_load_keep_weights_and_configuration(make_network: Make, tmp_path: Path) -> None:
    network = make_network(num_experts=3, expert_kind="window", gating="straight_through", mac_budget=35)
    save_network(network, tmp_path / "a" / "network.safetensors")
    loaded = load_network(tmp_path / "a" / "network.safetensors")
    assert loaded.config == network.config
    assert same(loaded, network)
    assert not loaded.training
    other = load_network(tmp_path / "a" / "network.safetensors", topk=2)
    assert other.topk == 2
    assert other.mac_budget is None, "a budget for one expert"


def test_save_refuses_other_formats(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"saved as \.safetensors"):
        save_network(MoCEIR(), tmp_path / "network.pth")


def published(reference: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The golden file's published names; the golden weights themselves."""
    golden = load_file(reference / "golden" / "moce_ir_30g.safetensors")
    return {prefix + name.removeprefix("weight/"): x for name, x in golden.items() if name.startswith("weight/")}


@pytest.mark.parametrize("prefix", ["", "net."])
@pytest.mark.parametrize("nested", [False, True])
def test_published_checkpoints(reference: Path, tmp_path: Path, prefix: str, nested: bool) -> None:
    state = published(reference, prefix)
    content = {"state_dict": state, "epoch": 3} if nested else state
    torch.save(content, tmp_path / "published.ckpt")
    network = load_network(tmp_path / "published.ckpt")
    assert network.config == MoCEIR().config
    assert torch.equal(network.embed.weight, state[f"{prefix}patch_embed.proj.weight"])
    assert load_network(tmp_path / "published.ckpt", topk=2).topk == 2


def test_incomplete_published_checkpoint_is_explained(reference: Path, tmp_path: Path) -> None:
    for missing in ("latent.layers.0.ffn.dwconv.bias", "enc.1.0.layers.0.mixer.temperature"):
        state = published(reference, "")
        del state[missing]
        torch.save(state, tmp_path / "cut.pth")
        with pytest.raises(WeightsError, match=r"(?s)cut\.pth: does not hold a whole MoCE-IR network.*\.0\."):
            load_network(tmp_path / "cut.pth")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "extra": Evil()}, "evil.ckpt")
    Path("evil.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.ckpt", "evil.pth"):
        with pytest.raises(
            WeightsError,
            match=rf"{name}: expected .* plain tensors only; this is a checkpoint that is damaged",
        ):
            load_network(name)
    assert not Path("executed").exists()


def test_anything_else_is_explained(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.ckpt: no such file"):
        load_network(tmp_path / "absent.ckpt")

    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(WeightsError, match=r"junk\.safetensors: not a readable \.safetensors file"):
        load_network(tmp_path / "junk.safetensors")

    for content, what in {
        b"": "an empty file",
        b"some words": "text",
        b"{}": "text",
        b".": "text",
        b"\xff\0": "some",
    }.items():
        (tmp_path / "bad.ckpt").write_bytes(content)
        with pytest.raises(WeightsError, match=rf"bad\.ckpt: expected a .*; this is {what}"):
            load_network(tmp_path / "bad.ckpt")

    save_file({"conv.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other\.safetensors: expected a moceir network.*found 1 tensors \(conv"):
        load_network(tmp_path / "other.safetensors")

    for content in ([1, 2], {"state_dict": [1]}):
        torch.save(content, tmp_path / "list.pt")
        with pytest.raises(WeightsError, match=r"list\.pt: expected a checkpoint or a state dict, found a list"):
            load_network(tmp_path / "list.pt")

    torch.save({1: torch.zeros(2)}, tmp_path / "numbers.pt")
    with pytest.raises(WeightsError, match=r"numbers\.pt: expected a moceir network"):
        load_network(tmp_path / "numbers.pt")

    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors", metadata={"format": "moceir"})
    with pytest.raises(WeightsError, match=r"bare\.safetensors: its metadata has no readable configuration"):
        load_network(tmp_path / "bare.safetensors")
