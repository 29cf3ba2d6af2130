"""Fits the routers of small networks to examples whose best experts are known."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomise
from typer.testing import CliRunner

from moceir import NAFMixture, NAFNet, load_network, save_network
from moceir.cli import fit_router as fit_router_command
from moceir.cli.main import app
from moceir.data.datasets import Batch
from moceir.pictures.arrays import write_picture
from moceir.training import router
from moceir.training.router import Examples, ExamplesFile, choices, collect_examples, fit_router
from moceir.training.teaching import ByResult

TEACHER = ByResult(db_per_gmac=0, weight=1)


@pytest.fixture
def network() -> NAFMixture:
    return randomise(NAFMixture(dim=4, num_blocks=(1, 1), num_decoder_blocks=(1,), widths=(0.5, 1, 1))).eval()


def batches(network: NAFMixture, count: int) -> list[Batch]:
    """Make pictures whose brightness tells the expert that restores them perfectly."""
    made = []
    for start in range(0, count, 4):
        best = torch.arange(start, start + 4) % 3
        x = torch.rand(4, 3, 16, 16) * torch.tensor([0.1, 0.5, 1])[best][:, None, None, None]
        with torch.no_grad():
            clean = network(x, experts=best[None, :, None])
        made.append(Batch(x, clean, ("gaussian",) * 4, ("picture",) * 4))
    return made


def test_the_router_learns_which_expert_is_best(network: NAFMixture) -> None:
    examples = collect_examples(network, batches(network, 48), teacher=TEACHER)
    assert examples.prices.argmin(dim=1).tolist() == [place % 3 for place in range(48)]
    fit_router(network, examples, steps=150, batch_size=16, lr=1e-2)
    chosen = choices(network, examples)
    assert chosen.tolist() == [place % 3 for place in range(48)]
    assert examples.lost(chosen).eq(0).all()
    assert examples.lost((chosen + 1) % 3).gt(1).all()
    for place, batch in enumerate(batches(network, 12)):  # other pictures, by the network itself
        assert network.restore_and_route(batch.degraded).route.flatten().tolist() == [
            one % 3 for one in range(4 * place, 4 * place + 4)
        ]


def test_features_are_the_same_whatever_the_router_knows(network: NAFMixture) -> None:
    pictures = batches(network, 8)
    first = collect_examples(network, pictures, teacher=TEACHER)
    fit_router(network, first, steps=2, batch_size=4)
    again = collect_examples(network, pictures, teacher=TEACHER)
    assert torch.allclose(first.features, again.features, atol=1e-5)
    assert network.latent[0].mlp[0].centre.any()
    assert torch.equal(first.part(slice(2, 5)).prices, first.prices[2:5])


def test_a_choice_that_hardly_matters_is_left_open(network: NAFMixture) -> None:
    """An expert that is better by 0.1 dB gets a larger probability, but not all of it."""
    features = torch.ones(8, 20)
    examples = Examples(features, torch.tensor([[0.1, 0.0, 9.0]]).expand(8, 3), ["jpeg"] * 8)
    fit_router(network, examples, lr=1e-2, weight_decay=0)
    first, second, third = network.latent[0].mlp(features[:1])[0].softmax(dim=0).tolist()
    shares = [1 / (1 + np.exp(-0.1 / temperature)) for temperature in (0.05, 1, 3)]
    assert second / (first + second) == pytest.approx(np.mean(shares), rel=0.02)
    assert third < 0.05


def test_the_seed_decides_and_the_callers_random_numbers_stay(network: NAFMixture) -> None:
    examples = collect_examples(network, batches(network, 8), teacher=TEACHER)
    results = []
    for seed in (3, 3, 4):
        before = torch.random.get_rng_state()
        fit_router(network, examples, steps=5, batch_size=4, seed=seed)
        assert torch.equal(before, torch.random.get_rng_state())
        results.append(network.latent[0].mlp[1].weight.detach().clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_what_is_missing_is_named(network: NAFMixture) -> None:
    with pytest.raises(ValueError, match="NAFNet has no router that chooses once for a picture"):
        collect_examples(NAFNet(), [], teacher=TEACHER)
    with pytest.raises(ValueError, match="no pictures to fit the router to"):
        collect_examples(network, [], teacher=TEACHER)


def test_examples_are_kept_for_the_same_experts_and_price(network: NAFMixture, tmp_path: Path) -> None:
    examples = collect_examples(network, batches(network, 8), teacher=TEACHER)
    file = ExamplesFile(tmp_path / "kept.safetensors", network=network, teacher=TEACHER)
    file.write(Examples.joined([examples.part(slice(None, 3)), examples.part(slice(3, None))]))
    fit_router(network, examples, steps=2, batch_size=4)
    kept = ExamplesFile(file.path, network=network, teacher=TEACHER).read()
    assert all(torch.equal(one, other) for one, other in zip(kept[:2], examples[:2], strict=True))
    assert kept.tasks == examples.tasks
    with pytest.raises(ValueError, match="was made with other weights or another price"):
        ExamplesFile(file.path, network=network, teacher=ByResult(db_per_gmac=1, weight=1)).read()
    with torch.no_grad():
        network.latent[1].experts[0].gain1.add_(1)
    with pytest.raises(ValueError, match="was made with other weights"):
        ExamplesFile(file.path, network=network, teacher=TEACHER).read()
    save_network(network, file.path)
    with pytest.raises(ValueError, match="doesn't hold a router's examples"):
        file.read()


def test_a_call_continues_and_adds_to_what_others_have_kept(
    network: NAFMixture, photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(tmp_path / "data" / "a.png", photograph)
    save_network(network, tmp_path / "before.safetensors")
    call = ["fit-router", "--weights", str(tmp_path / "before.safetensors"), "data=photographs"]
    call += [f"data.root={tmp_path / 'data'}", "data.sets.photographs.validation=0", "data.sets.photographs.repeat=48"]
    call += ["data.crop=32", "data.batch_size=4"]
    monkeypatch.setattr(fit_router_command, "KEPT", 3)
    monkeypatch.setattr(router, "fit_router", partial(fit_router, steps=20))

    def results(where: str, *more: str) -> list[Examples]:
        arguments = ["--examples", str(tmp_path / where), "-o", str(tmp_path / f"{where}.safetensors"), *more]
        run = CliRunner().invoke(app, [*call, *arguments])
        assert run.exit_code == 0, (run.output, run.exception)
        files = sorted((tmp_path / where).iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return [
            ExamplesFile(path, network=network, teacher=ByResult(db_per_gmac=0.002, weight=1)).read() for path in files
        ]

    [whole] = results("whole", "--crops", "44")
    [first] = results("parts", "--crops", "20")
    [both] = results("parts", "--crops", "44")
    assert (len(first.tasks), len(both.tasks)) == (20, 44)
    assert torch.equal(both.prices, whole.prices)
    assert [len(one.tasks) for one in results("parts", "--crops", "20", "seed=1")] == [44, 20]
    one, other = (load_network(tmp_path / f"{name}.safetensors").state_dict() for name in ("whole", "parts"))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_command_changes_the_router_alone(network: NAFMixture, photograph: np.ndarray, tmp_path: Path) -> None:
    write_picture(tmp_path / "data" / "a.png", photograph)
    save_network(network, tmp_path / "before.safetensors")
    files = ["--weights", str(tmp_path / "before.safetensors"), "-o", str(tmp_path / "after.safetensors")]
    overrides = ["data=photographs", f"data.root={tmp_path / 'data'}", "data.sets.photographs.validation=0"]
    sizes = ["data.sets.photographs.repeat=40", "data.crop=32", "data.batch_size=4"]
    refused = CliRunner().invoke(app, ["fit-router", "-o", "router.pt", *overrides])
    assert "--output router.pt: give a name that ends in .safetensors" in str(refused.exception)
    run = CliRunner().invoke(app, ["fit-router", *files, "--crops", "40", *overrides, *sizes])
    assert run.exit_code == 0, (run.output, run.exception)
    assert "What choosing costs, dB" in run.output
    before, after = (load_network(tmp_path / f"{name}.safetensors").state_dict() for name in ("before", "after"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("latent.0.") for name in changed)
