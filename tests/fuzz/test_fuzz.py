"""Gives malformed input to the readers of files and settings, which must read it or raise an error of one line.

``make fuzz`` tries thousands of inputs for each reader (MOCEIR_FUZZ); the tests try a few. An input that breaks a
reader is stored in ``corpus/<reader>/``, and each later run tries it again. Commit it together with the fix.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from moceir import MoCEIR, load_network
from moceir.cli.options import load_sources
from moceir.config import config_dir
from moceir.data import pack, shards
from moceir.data.pairs import Pair
from moceir.data.pictures import ArrayPicture, PictureFile
from moceir.pictures.formats import FORMATS, encode
from moceir.pictures.picture import Metadata, Picture
from moceir.training.checkpoints import read_checkpoint
from moceir.training.settings import check_settings

EXAMPLES = int(os.environ.get("MOCEIR_FUZZ", "15"))
CORPUS = Path(__file__).parent / "corpus"
SECONDS = 20
"""Seconds that no input may exceed, even on a busy machine."""

LIMITS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=EXAMPLES < 100,  # run the same few examples in every run of the tests
    suppress_health_check=list(HealthCheck),
)


def photograph() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8).repeat(3, axis=0)


def small_network() -> MoCEIR:
    torch.manual_seed(0)
    return MoCEIR(dim=4, num_blocks=[1, 1], num_decoder_blocks=[1], num_heads=[1, 2], num_refinement_blocks=1)


def picture(suffix: str) -> Callable[[Path], bytes]:
    """With what a camera says in it, where the format has a place for that."""
    about = Image.Exif()
    about[0x010F], about[0x0112] = "Camera & Co", 6
    about.get_ifd(0x8769)[0x829A] = (1, 250)
    metadata = Metadata(exif=about.tobytes().removeprefix(b"Exif\0\0"), xmp=b"<x:xmpmeta/>", resolution=(300.0, 300.0))
    whole = Picture(pixels=photograph(), depth=np.dtype(np.uint8), bits=8, metadata=metadata)
    return lambda _: encode([whole], Path(f"a{suffix}"))[0]


def saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def safetensors_file(_: Path) -> bytes:
    network = small_network()
    metadata = {"format": "moceir", "config": json.dumps(network.config)}
    return safetensors.torch.save(network.state_dict(), metadata)


def checkpoint_file(_: Path) -> bytes:
    network = small_network()
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    return saved({"state_dict": state, "network_config": network.config, "loops": {}, "optimizer_states": []})


def pairs() -> list[Pair]:
    picture = ArrayPicture(photograph())
    return [Pair(picture, picture if number % 2 else None, f"picture{number}", "scene") for number in range(4)]


def shard_file(folder: Path) -> bytes:
    shards.write_shards({"set-train": pairs()}, folder, shard_mib=1, workers=1, description="")
    return next(folder.glob("*.tar")).read_bytes()


def index_file(folder: Path) -> bytes:
    shards.write_index(folder, {"set": {"train": [shards.Shard("set-train.tar", 4, 0)], "validation": []}})
    return (folder / shards.INDEX).read_bytes()


def pack_file(folder: Path) -> bytes:
    pack.write_pack(pairs(), folder, shard_mib=1, workers=1, description="")
    return next(folder.glob("*.safetensors")).read_bytes()


def open_picture(path: Path) -> None:
    try:
        PictureFile(str(path)).size()
    finally:
        PictureFile(str(path)).open()


def open_shard(path: Path) -> None:
    first = None
    for _, _, pair in shards.read_shard(str(path.parent), shards.Shard(path.name, 4, 0), range(4)):
        if isinstance(pair, ValueError):
            first = first or pair
        else:
            pair.open()
    if first:
        raise first


def open_pack(path: Path) -> None:
    pack._open_shard.cache_clear()
    for clean, degraded, *_ in pack.find_packed(path.parent):
        for one in filter(None, (clean, degraded)):
            one.size()
            one.open()


PICTURES = [format.suffixes[0].removeprefix(".") for format in FORMATS if format.available and format.written]


class Reader(NamedTuple):
    file: str
    make: Callable[[Path], bytes]
    """Write an intact file into an empty folder."""
    read: Callable[[Path], object]


READERS = {
    **{f"picture-{kind}": Reader(f"a.{kind}", picture(f".{kind}"), open_picture) for kind in PICTURES},
    "weights": Reader("a.safetensors", safetensors_file, load_network),
    "published": Reader("b.safetensors", lambda _: safetensors.torch.save(small_network().state_dict()), load_network),
    "checkpoint-weights": Reader("a.ckpt", checkpoint_file, load_network),
    "checkpoint": Reader("last.ckpt", checkpoint_file, read_checkpoint),
    "shard": Reader("set-train.tar", shard_file, open_shard),
    "index": Reader("index.json", index_file, lambda path: shards.read_index(str(path.parent))),
    "pack": Reader("pack-00000-of-00001.safetensors", pack_file, open_pack),
}

Edit = tuple[str, float, bytes]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut out", "cut off", "repeat", "insert", "bit"]),
        # Most errors are at a file's start or end.
        st.one_of(st.floats(0, 1), st.floats(0, 0.02), st.floats(0.98, 1)),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([b"\xff" * 4, b"\0" * 8, b"\x7f\xff\xff\xff", b"999999999", b"-1", b"{", b"[[[[", b'"']),
        ),
    ),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, edits: list[Edit]) -> bytes:
    data = bytearray(content)
    for kind, where, some in edits:
        at = int(where * len(data))
        if kind == "set":
            data[at : at + len(some)] = some
        elif kind == "cut out":
            del data[at : at + 16 * len(some)]
        elif kind == "cut off":
            del data[at:]
        elif kind == "repeat":
            data[at:at] = data[at : at + 16 * len(some)]
        elif kind == "insert":
            data[at:at] = some
        elif at < len(data):
            data[at] ^= 1 << some[0] % 8
    return bytes(data)


def said(function: Callable[..., object], *arguments: object) -> str:
    """Return the message of a ValueError, or an empty string if none is raised."""
    try:
        function(*arguments)
    except ValueError as error:
        return str(error)
    return ""


def check(name: str, folder: Path, content: bytes) -> None:
    """Check that a reader soon returns, or raises a ValueError whose one line names the file."""
    path = folder / READERS[name].file
    path.write_bytes(content)
    start = time.process_time()
    message = said(READERS[name].read, path)
    assert "\n" not in message
    assert not message or path.name in message
    assert time.process_time() - start < SECONDS


def keep(name: str, folder: Path) -> None:
    """Store the file that broke a reader, after Hypothesis has simplified it."""
    content = (folder / READERS[name].file).read_bytes()
    kept = CORPUS / name / hashlib.sha256(content).hexdigest()[:16]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(content)


@pytest.mark.parametrize("name", READERS)
def test_files(name: str, tmp_path: Path) -> None:
    for part in ("whole", "broken"):
        (tmp_path / part).mkdir()
    whole = READERS[name].make(tmp_path / "whole")
    (tmp_path / "broken" / READERS[name].file).write_bytes(whole)
    if name != "published":  # the reader rejects small weights under published names
        READERS[name].read(tmp_path / "broken" / READERS[name].file)
    for kept in sorted((CORPUS / name).glob("*")):
        check(name, tmp_path / "broken", kept.read_bytes())

    @LIMITS
    @given(EDITS)
    def any_edit(edits: list[Edit]) -> None:
        check(name, tmp_path / "broken", edited(whole, edits))

    try:
        any_edit()
    except BaseException:
        keep(name, tmp_path / "broken")
        raise


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-10, 2000), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)


def test_configurations_of_weights(tmp_path: Path) -> None:
    network = small_network()

    @LIMITS
    @given(st.one_of(st.dictionaries(st.sampled_from([*network.config, "more"]), VALUES, max_size=3), VALUES))
    def any_configuration(values: Any) -> None:
        config = {**network.config, **values} if isinstance(values, dict) else values
        metadata = {"format": "moceir", "config": json.dumps(config)}
        check("weights", tmp_path, safetensors.torch.save(network.state_dict(), metadata))

    try:
        any_configuration()
    except BaseException:
        keep("weights", tmp_path)
        raise


def test_settings() -> None:
    with initialize_config_dir(config_dir(), version_base="1.3"):
        config = compose("train", ["data=photographs"])
    plain = OmegaConf.to_container(OmegaConf.masked_copy(config, ["seed", "warmup_steps", "optimizer"]), resolve=True)
    places = ["seed", "warmup_steps", "optimizer", "optimizer.lr", "optimizer.weight_decay", "data", "data.sets"]
    places += ["data.crop", "data.sets.a", "data.sets.a.repeat", "loss.weights", "loss.weights.l1", "callbacks.last"]

    @LIMITS
    @given(st.dictionaries(st.sampled_from(places), VALUES, max_size=4))
    def any_values(values: dict[str, Any]) -> None:
        changed = OmegaConf.create(plain)
        for place, value in values.items():
            try:
                OmegaConf.update(changed, place, value, force_add=True)
            except Exception:
                return
        assert "\n" not in said(check_settings, changed)

    any_values()


def test_overrides() -> None:
    words = st.sampled_from(
        ["data.sets.WED", "repeat", "_target_", "=", ".", "+", "~", "{", "}", "[", "]", ",", ":", "${", "-1", "null",
         "moceir.data.sources.CleanPictures", "os.system", "folders", "choice(1,2)", " ", "x", "1e999", "data=wed"]
    )  # fmt: skip

    @LIMITS
    @given(st.lists(words, min_size=1, max_size=6).map("".join))
    def any_words(override: str) -> None:
        assert "\n" not in said(load_sources, "wed", [override])

    any_words()
