from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import moceir
from moceir import MoCEIR, load_network, load_pretrained, save_network
from moceir.inference import weights
from moceir.inference.weights import WeightsError

Make = Callable[..., MoCEIR]


def same(a: MoCEIR, b: MoCEIR) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("name", "parameters"), [("moce_ir_30g", 571_001), ("naf_mixture_30g", 1_063_168), ("naf_free_30g", 261_203)]
)
def test_shipped_weights_restore(name: str, parameters: int) -> None:
    network = load_pretrained(name)
    assert not network.training
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.route_costs.cheapest(1) < 30e9
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
    """Load the golden weights, under their published names."""
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


def one_line(path: Path, match: str) -> None:
    with pytest.raises(WeightsError, match=match) as caught:
        load_network(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["output.weight", "refinement.0.feed_forward.mix.bias"])
def test_weights_that_are_not_finite_are_refused_by_name(
    make_network: Make, tmp_path: Path, name: str, value: float
) -> None:
    network = make_network()
    network.state_dict()[name].view(-1)[-1] = value
    save_network(network, tmp_path / "a.safetensors")
    one_line(tmp_path / "a.safetensors", f"{name} holds NaN or infinity")


SIZES = {
    "dim=20000": {"dim": 20000},
    "dim=1000": {"dim": 1000},
    "ten million blocks": {"num_blocks": [10**7] * 4},
    "a thousand blocks": {"num_blocks": [500] * 4},
    "experts": {"num_experts": 6, "window_sizes": [4] * 6},
    "windows": {"window_sizes": [4, 8, 16, 10**9]},
    "huge": {"dim": 10**400},
    "negative": {"num_blocks": [-1, 2, 4, 4]},
    "a word": {"dim": "8"},
    "a list": {"dim": [8]},
    "an object": {"num_blocks": {"a": 1}},
    "not an argument": {"depth": 3},
    "levels": {"num_blocks": [1] * 40, "num_heads": [1] * 40, "num_decoder_blocks": [1] * 39},
}


@pytest.mark.parametrize("size", SIZES)
def test_sizes_that_the_tensors_do_not_have_are_refused_at_once(make_network: Make, tmp_path: Path, size: str) -> None:
    network = make_network()
    metadata = {"format": "moceir", "config": json.dumps({**network.config, **SIZES[size]})}
    save_file(network.state_dict(), tmp_path / "a.safetensors", metadata)
    load_pretrained()  # imports all modules before the measurement
    before, start = peak_memory(), time.perf_counter()
    one_line(tmp_path / "a.safetensors", "does not hold a whole MoCE-IR network: ")
    assert time.perf_counter() - start < 5, "a second, where nothing else runs"
    assert peak_memory() - before < 100e6


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ("[" * 100_000, "its metadata has no readable configuration"),
        ('{"dim":' * 100_000, "its metadata has no readable configuration"),
        ("[1, 2]", "its metadata has no readable configuration"),
        ('[["dim", 8]]', "its metadata has no readable configuration"),
        ("7", "its metadata has no readable configuration"),
        ("NaN", "its metadata has no readable configuration"),
        ("{}", "does not hold a whole MoCE-IR network"),
    ],
)
def test_invalid_metadata_give_an_error_of_one_line(tmp_path: Path, config: str, match: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"format": "moceir", "config": config})
    one_line(tmp_path / "a.safetensors", match)
    if match.startswith("its"):
        torch.save({"state_dict": {"network.a": torch.zeros(1)}, "network_config": [1]}, tmp_path / "a.ckpt")
        one_line(tmp_path / "a.ckpt", "its network_config is a list, where a dictionary is needed")


@pytest.mark.parametrize("kind", ["0-dimensional", "integer", "lacking", "too many", "expanded", "sparse"])
def test_invalid_tensors_give_an_error_of_one_line(make_network: Make, tmp_path: Path, kind: str) -> None:
    network = make_network()
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    weight = state["network.embed.weight"]
    strange = {
        "0-dimensional": torch.tensor(1.0),
        "integer": weight.long(),
        "expanded": torch.zeros(1).expand(weight.shape),
        "sparse": weight.to_sparse(),
    }
    if kind in strange:
        state["network.embed.weight"] = strange[kind]
    elif kind == "lacking":
        del state["network.embed.weight"]
    else:
        state["network.more"] = weight
    torch.save({"state_dict": state, "network_config": network.config}, tmp_path / "a.ckpt")
    one_line(tmp_path / "a.ckpt", "does not hold a whole MoCE-IR network: .*(embed.weight|tensor more)")


@pytest.mark.parametrize("name", ["encoder.999999999.0.a", f"decoder.{'9' * 5000}.0.b", "latent.123456.c"])
def test_published_names_with_huge_numbers_are_refused(make_network: Make, tmp_path: Path, name: str) -> None:
    state = {**make_network().state_dict(), name: torch.zeros(1)}
    save_file(state, tmp_path / "a.safetensors")
    one_line(tmp_path / "a.safetensors", "does not hold a whole MoCE-IR network: ")
    state["decoder.0.0.moce.router.features.weight"] = torch.tensor(1.0)
    save_file(state, tmp_path / "a.safetensors")
    one_line(tmp_path / "a.safetensors", "does not hold a whole MoCE-IR network: ")


def test_the_shipped_file_is_the_published_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(moceir.__file__).parent / "weights"
    sums = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    shipped = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}
    assert sums == shipped
    assert shipped.keys() == {f"{name}.safetensors" for name in weights.SHIPPED}
    for name, digest in shipped.items():
        assert digest in (folder / name).with_suffix(".md").read_text(), "the model card has it"

    shutil.copytree(folder, tmp_path / "weights")
    file = tmp_path / "weights" / "moce_ir_30g.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # changes the last weight a little
    file.write_bytes(content)
    monkeypatch.setattr(weights.resources, "files", lambda _: tmp_path)
    with pytest.raises(WeightsError, match=r"safetensors: not the file that was shipped .*; install moceir again"):
        load_pretrained("moce_ir_30g")
    with pytest.raises(
        WeightsError,
        match="wide: no such weights come with moceir; there are naf_mixture_30g, naf_free_30g, moce_ir_30g",
    ):
        load_pretrained("wide")
