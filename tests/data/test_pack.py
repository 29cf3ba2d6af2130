from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from processes import forked

from moceir.cli.options import load_sources
from moceir.data import pack
from moceir.data.pack import find_packed, is_pack, write_pack
from moceir.data.pairs import Pair
from moceir.pictures.picture import PictureError


def sidd(tree: Path) -> list[Pair]:
    return load_sources("sidd", [])["SIDD"].find(tree / "SIDD_Medium_Srgb").pairs


def write(pairs: list[Pair], folder: Path, shard_mib: int = 4) -> None:
    write_pack(pairs, folder, shard_mib=shard_mib, workers=2, description="")


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_packed_pictures_equal_the_originals(tree: Path, tmp_path: Path) -> None:
    pairs = sidd(tree)
    write(pairs, tmp_path)
    assert len(files(tmp_path)) == 3, "squares of 1.5 MiB a pair, files of 4"
    packed = [Pair(*entry) for entry in find_packed(tmp_path)]
    assert [(pair.name, pair.group) for pair in packed] == [(pair.name, pair.group) for pair in pairs]
    for ours, original in zip(packed, pairs, strict=True):
        assert ours.size() == original.size()
        for picture, expected in zip(ours.open(), original.open(), strict=True):
            assert np.array_equal(picture, expected)


def test_pixels_are_mapped_not_read(tree: Path, tmp_path: Path) -> None:
    write(sidd(tree), tmp_path)
    clean, _, *_ = find_packed(tmp_path)[0]
    assert np.shares_memory(clean.open(), clean.open())
    assert not clean.open().flags.writeable


def test_a_killed_packing_is_completed_and_a_complete_one_is_not_changed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = sidd(tree)
    write(pairs, tmp_path / "whole")
    before = files(tmp_path / "whole")
    write(pairs, tmp_path / "whole")
    assert files(tmp_path / "whole") == before

    written = []

    def dies_at_the_second(path: Path, data: bytes, **options: bool) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        original(path, data, **options)

    original = pack.write_atomically
    monkeypatch.setattr(pack, "write_atomically", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_pack(pairs, tmp_path / "killed", shard_mib=4, workers=1, description="")
    monkeypatch.undo()
    assert is_pack(tmp_path / "killed")
    with pytest.raises(ValueError, match=r"holds 1 of 3 packed files; run the same `moceir prepare pack` again"):
        find_packed(tmp_path / "killed")
    first = files(tmp_path / "killed")
    write(pairs, tmp_path / "killed")
    assert first.items() <= files(tmp_path / "killed").items(), "what was finished is not made again"
    assert {name: (tmp_path / "killed" / name).read_bytes() for name in before} == {
        name: (tmp_path / "whole" / name).read_bytes() for name in before
    }


def test_another_packing_is_not_mixed_in(tree: Path, tmp_path: Path) -> None:
    pairs = sidd(tree)
    write(pairs, tmp_path)
    with pytest.raises(ValueError, match="packed from other pictures or with other settings; choose an empty folder"):
        write(pairs[1:], tmp_path)
    with pytest.raises(ValueError, match="choose an empty folder"):
        write(pairs, tmp_path, shard_mib=100)


def test_cut_packs_are_refused(tree: Path, tmp_path: Path) -> None:
    write(sidd(tree), tmp_path, shard_mib=100)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(PictureError, match=r"pack-00000-of-00001\.safetensors: not a readable pack .* delete it"):
        find_packed(tmp_path)


def test_a_pack_that_is_cut_while_it_is_read_is_an_error(tree: Path, tmp_path: Path) -> None:
    """Access to mapped memory beyond a file's end would kill the process."""

    def read_on() -> None:
        write(sidd(tree), tmp_path, shard_mib=100)
        clean, degraded, *_ = find_packed(tmp_path)[-1]
        clean.open()
        (file,) = tmp_path.iterdir()
        os.truncate(file, 10_000)
        with pytest.raises(
            PictureError, match=r"safetensors: the file has become shorter since it was opened; delete it"
        ):
            degraded.open().sum()

    assert forked(read_on) == 0


def test_a_flipped_bit_is_found(tree: Path, tmp_path: Path) -> None:
    write(sidd(tree), tmp_path, shard_mib=100)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    *whole, (clean, degraded, *_) = find_packed(tmp_path)
    for one, other, *_ in whole:
        one.open(), other.open()
    with pytest.raises(PictureError, match=r"safetensors:8/(clean|degraded): damaged \(wrong checksum\); delete it"):
        clean.open(), degraded.open()


def test_every_dataset_packed_trains_as_it_did(tree: Path, tmp_path: Path) -> None:
    """The same pairs are found under the same names, packed or not."""
    for name, source in load_sources("all", []).items():
        folder = source.locate(tree)
        pairs = source.find(folder).pairs
        write(pairs, tmp_path / source.folders[0], shard_mib=100)
        assert source.locate(tmp_path) == tmp_path / source.folders[0], name
        packed = source.find(tmp_path / source.folders[0]).pairs
        assert [(pair.name, pair.group) for pair in packed] == [(pair.name, pair.group) for pair in pairs], name
