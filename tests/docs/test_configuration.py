"""Checks the configuration reference, which docs/site generates from conf/."""

from __future__ import annotations

from typing import Any

import pytest
from shown import ROOT

pytest.importorskip("mkdocs", reason="needs the extra docs")
pytest.importorskip("griffe", reason="needs the extra docs")


@pytest.fixture
def configuration(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")
    import configuration

    return configuration


def test_every_file_and_every_key_has_a_description(configuration: Any) -> None:
    for path in sorted(configuration.CONF.rglob("*.yaml")):
        introduction, keys = configuration.read(path)
        assert introduction, path
        missing = [key.name for key in keys if not (key.description or configuration.descriptions().get(key.name))]
        assert not missing, f"{path}: put a comment beside {missing}"


def test_values_and_descriptions_are_those_of_the_files(configuration: Any) -> None:
    reference = configuration.reference()
    for row in (
        "| `optimizer.weight_decay` | `0.01` | share of each weight to subtract per step, times the learning rate |",
        "| `data.crop` | `128` | side of the square crops in pixels. |",
        "| `network.num_experts` | `4` | n, 2 to 6. |",
    ):
        assert row in reference
