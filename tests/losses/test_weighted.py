from __future__ import annotations

import pytest
import torch

from moceir import MoCEIR
from moceir.config import build
from moceir.losses import weighted
from moceir.losses.weighted import WeightedLoss
from moceir.networks.interface import Restoration

TERMS = ["l1", "perceptual", "ms_ssim", "l2", "frequency", "balance"]
NO_VGG = "loss.terms.perceptual.weights=random"


@pytest.fixture(scope="module")
def restoration() -> Restoration:
    torch.manual_seed(0)
    restored = MoCEIR().restore_and_route(torch.rand(2, 3, 40, 40))
    return restored._replace(restored=restored.restored.detach().requires_grad_())


CLEAN = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))


def test_weights_are_the_documents() -> None:
    bundle = build("loss", [NO_VGG])
    assert bundle.weights == {
        "l1": 1.5,
        "perceptual": 0.5,
        "ms_ssim": 0.7,
        "l2": 0.1,
        "frequency": 0.1,
        "balance": 0.05,
    }


def test_the_total_is_the_weighted_sum_of_all_terms(restoration: Restoration) -> None:
    bundle: WeightedLoss = build("loss", [NO_VGG])
    total, terms = bundle(restoration, CLEAN)
    assert list(terms) == TERMS
    assert all(float(term) > 0 for term in terms.values())
    expected = sum(bundle.weights[name] * float(term) for name, term in terms.items())
    assert float(total) == pytest.approx(expected, rel=1e-6)
    assert float(terms["balance"]) == pytest.approx(float(restoration.balance_loss))


def test_a_term_of_weight_zero_is_neither_computed_nor_loaded(
    restoration: Restoration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(weighted, "balance_over_processes", never)
    off = [f"loss.weights.{name}=0" for name in TERMS if name != "l1"]
    off += ["+loss.terms.never={_target_: builtins.divmod, _partial_: true}", "+loss.weights.never=0"]
    off += ["loss.terms.perceptual.weights=no such file"]
    total, terms = build("loss", off)(restoration, CLEAN)
    assert list(terms) == ["l1"]
    assert float(total) == pytest.approx(1.5 * float(terms["l1"]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_terms_are_computed_in_float32(restoration: Restoration, dtype: torch.dtype) -> None:
    low = restoration._replace(restored=restoration.restored.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, terms = build("loss", [NO_VGG])(low, CLEAN)
    assert all(term.dtype == torch.float32 for term in [total, *terms.values()])
    assert torch.isfinite(total)


def test_losses_are_not_stored_in_checkpoints() -> None:
    assert not build("loss", [NO_VGG]).state_dict()
    assert not list(build("loss", [NO_VGG]).parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["+loss.weights.sharpness=1"], "give each of l1, perceptual, ms_ssim, l2, frequency, balance a weight"),
        (["loss.weights.l1=-1"], r"loss\.weights="),
        (["loss.weights.l1=inf"], r"loss\.weights="),
        ([f"loss.weights.{name}=0" for name in TERMS], "all are zero"),
    ],
)
def test_weights_that_make_no_sense_are_refused(change: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message):
        build("loss", [NO_VGG, *change])


def test_a_new_term_is_a_function_and_a_line(restoration: Restoration) -> None:
    new = "+loss.terms.huber={_target_: torch.nn.functional.huber_loss, _partial_: true, delta: 0.1}"
    total, terms = build("loss", [NO_VGG, new, "+loss.weights.huber=2"])(restoration, CLEAN)
    assert float(terms["huber"]) > 0
    assert float(total) > 2 * float(terms["huber"])


def test_missing_requirements_of_a_term_are_reported_before_training() -> None:
    with pytest.raises(Exception, match="no such file"):
        build("loss", ["loss.terms.perceptual.weights=nothing.pth"])


def test_a_network_without_experts_has_no_balance() -> None:
    restored = Restoration(torch.rand(2, 3, 40, 40, requires_grad=True))
    assert list(build("loss", [NO_VGG])(restored, CLEAN)[1]) == TERMS[:-1]
