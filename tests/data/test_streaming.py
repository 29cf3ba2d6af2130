"""Tests the content of tar shards, and that streams from all kinds of storage give the same samples."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from test_datamodule import make
from typer.testing import CliRunner

from moceir import extras
from moceir.cli.main import app
from moceir.cli.options import load_sources
from moceir.data import shards, streaming
from moceir.data.datasets import Batch
from moceir.data.degradations import GaussianNoise
from moceir.data.pairs import Pair
from moceir.data.pictures import ArrayPicture
from moceir.data.shards import Shard, read_index, read_shard, write_shards
from moceir.data.streaming import StreamedCrops, StreamedSet, StreamingDataModule
from moceir.pictures.arrays import write_picture
from moceir.pictures.picture import PictureError

pytest.importorskip("webdataset")

SPLITS = ["data.sets.BSD400.validation=1", "data.sets.PolyU.test=1", "data.sets.PolyU.validation=1"]
ONLY = [f"~data.sets.{name}" for name in ("SIDD", "NIND", "WED")]
TARGET = "data._target_=moceir.data.streaming.StreamingDataModule"
PACK = [word for override in [*SPLITS, *ONLY] for word in ("--set", override)]


def pack(tree: Path, output: Path) -> None:
    arguments = ["prepare", "pack", str(tree), "-o", str(output), "--data", "denoise", "--format", "webdataset"]
    run = CliRunner().invoke(app, [*arguments, "--shard-mib", "1", "--workers", "1", *PACK])
    if run.exception:
        raise run.exception


@pytest.fixture(scope="module")
def streamed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two datasets as shards that hold few samples each."""
    output = tmp_path_factory.mktemp("shards")
    plan_shards = shards.plan_shards
    try:
        shards.plan_shards = lambda pairs, **_: ([list(pairs[i : i + 2]) for i in range(0, len(pairs), 2)], "0" * 64)
        pack(tree, output)
    finally:
        shards.plan_shards = plan_shards
    return output


def module(root: object, *overrides: str) -> StreamingDataModule:
    settings = [TARGET, *SPLITS, *ONLY, "data.sets.PolyU.repeat=3", "data.batch_size=2", *overrides]
    made = make(root, *settings, data="denoise", crop=48)
    made.setup("fit")
    assert isinstance(made, StreamingDataModule)
    return made


def epoch(data: StreamingDataModule, number: int = 0, start: int = 0) -> list[Batch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    loader.start = start
    return list(loader)


def contents(batches: list[Batch]) -> Counter:
    """Count every sample, identified by its entire content."""
    return Counter(
        (name, task, degraded.numpy().tobytes(), clean.numpy().tobytes())
        for batch in batches
        for degraded, clean, task, name in zip(*batch, strict=True)
    )


def test_shards_hold_the_files_as_they_were(tree: Path, streamed: Path) -> None:
    index = read_index(str(streamed))
    counts = {(name, part): sum(s.samples for s in of) for name, parts in index.items() for part, of in parts.items()}
    assert counts == {
        ("BSD400", "train"): 3, ("BSD400", "validation"): 1, ("PolyU", "train"): 2, ("PolyU", "validation"): 2
    }  # fmt: skip
    with tarfile.open(streamed / index["PolyU"]["train"][0].file) as tar:
        names = tar.getnames()
        files = {name: tar.extractfile(name).read() for name in names}
    assert names[:3] == ["00000000.clean.jpg", "00000000.degraded.jpg", "00000000.json"]
    about = json.loads(files["00000000.json"])
    assert files["00000000.degraded.jpg"] == (tree / "PolyU" / f"{about['name']}.JPG").read_bytes()


def test_squares_are_stored_without_loss(tree: Path, tmp_path: Path) -> None:
    arguments = ["prepare", "pack", str(tree), "-o", str(tmp_path), "--data", "sidd", "--format", "webdataset"]
    assert CliRunner().invoke(app, [*arguments, "--set", "data.sets.SIDD.validation=1"]).exit_code == 0
    index = read_index(str(tmp_path))["SIDD"]
    stored = [
        pair
        for part in index.values()
        for shard in part
        for _, _, pair in read_shard(str(tmp_path), shard, range(shard.samples))
    ]
    original = {pair.name: pair for pair in load_sources("sidd", [])["SIDD"].find(tree / "SIDD_Medium_Srgb").pairs}
    assert len(stored) == len(original) == 9
    for pair in stored:
        for picture, expected in zip(pair.open(), original[pair.name].open(), strict=True):
            assert np.array_equal(picture, expected)


def test_every_sample_comes_as_often_as_it_repeats(streamed: Path) -> None:
    batches = epoch(module(streamed))
    names = Counter(name for batch in batches for name in batch.names)
    assert sum(names.values()) == 3 * 4 + 2 * 3
    assert {name.partition("/")[0]: count for name, count in names.items()} == {"BSD400": 4, "PolyU": 3}
    assert max(contents(batches).values()) == 1, "no repeat is the same crop"


def test_samples_do_not_depend_on_the_number_of_workers(streamed: Path) -> None:
    expected = contents(epoch(module(streamed), 3))
    for workers in (1, 2, 3):
        assert contents(epoch(module(streamed, f"data.num_workers={workers}"), 3)) == expected
    assert contents(epoch(module(streamed), 4)) != expected


def test_persistent_workers_get_the_epoch(streamed: Path) -> None:
    loader = module(streamed, "data.num_workers=2").train_dataloader()
    seen = []
    for number in (0, 5, 0):
        loader.sampler.set_epoch(number)
        seen.append(contents(list(loader)))
    assert seen[0] == seen[2] != seen[1]


def test_crops_are_chosen_and_made_grey_as_from_files(streamed: Path) -> None:
    for batch in epoch(module(streamed, "data.grey=1")):
        assert torch.equal(batch.degraded[:, 0], batch.degraded[:, 2])
        assert torch.equal(batch.clean[:, 0], batch.clean[:, 1])
    assert contents(epoch(module(streamed, "data.detail=1"))) != contents(epoch(module(streamed)))


def test_ranks_share_an_epoch_evenly(streamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = contents(epoch(module(streamed)))
    for world_size in (2, 4):
        ranks = []
        for rank in range(world_size):
            data = module(streamed, "data.num_workers=2", "data.batch_size=4")
            monkeypatch.setattr(data, "_rank", lambda rank=rank, size=world_size: (rank, size))
            ranks.append(epoch(data))
        assert {len(batches) for batches in ranks} == {18 // 4}, "they share each batch"
        together = sum((contents(batches) for batches in ranks), Counter())
        assert together <= whole, "no sample appears twice"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restarted_epoch_continues_at_the_same_batch(streamed: Path, workers: int) -> None:
    data = module(streamed, f"data.num_workers={workers}")
    whole = epoch(data, 1)
    for start in (1, 4):
        rest = epoch(data, 1, start)
        assert len(rest) == len(whole) - start
        for ours, expected in zip(rest, whole[start:], strict=True):
            assert ours.names == expected.names
            assert torch.equal(ours.degraded, expected.degraded)
    data = module(streamed, f"data.num_workers={workers}")
    data.load_state_dict({"batches": 4})
    loader = data.train_dataloader()
    assert (len(loader), len(list(loader))) == (9, 5)


def test_earlier_samples_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is known before anything is read, so a resumed run opens only the shards that it still needs."""
    monkeypatch.setattr(streaming, "_MIXED", 8)
    monkeypatch.setattr(streaming, "_BUFFER", 4)
    noise = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    pairs = [Pair(ArrayPicture(picture), None, f"{i}", f"{i}") for i, picture in enumerate(noise)]
    monkeypatch.setattr(shards, "plan_shards", lambda pairs, **_: ([pairs[i : i + 4] for i in range(0, 40, 4)], "0"))
    written = write_shards({"a-train": pairs}, tmp_path, shard_mib=1, workers=1, description="")["a-train"]
    opened = []

    def reading(root: str, shard: Shard, numbers: set[int]) -> Iterator:
        opened.append(shard.file)
        yield from original(root, shard, numbers)

    original = streaming.read_shard
    monkeypatch.setattr(streaming, "read_shard", reading)
    crops = StreamedCrops(
        root=str(tmp_path), sets=[StreamedSet("a", "gaussian", 1, written)], crop=8, batch_size=4, seed=0,
        degradation=GaussianNoise(sigmas=[15]), rank=0, world_size=1, workers=1,
    )  # fmt: skip
    whole = [crops[0, number].name for number in range(40)]
    assert sorted(whole) == sorted(f"a/{i}" for i in range(40))
    assert whole != [f"a/{i}" for i in range(40)]
    assert len(opened) == 10
    opened.clear()
    assert [crops[0, number].name for number in range(32, 40)] == whole[32:]
    assert 2 <= len(opened) <= 5


def test_validation_is_that_of_the_files(tree: Path, streamed: Path) -> None:
    files = make(tree, *SPLITS, *ONLY, data="denoise", crop=48)
    files.setup("fit")
    ours = module(streamed).val_set
    assert len(ours) == len(files.val_set) > 0
    for index in range(len(ours)):
        one, two = ours[index], files.val_set[index]
        assert (one.name, one.task) == (two.name, two.task)
        assert torch.equal(one.clean, two.clean)
        assert torch.equal(one.degraded, two.degraded)


class Flaky(SimpleHTTPRequestHandler):
    """Truncates the response for every tar file, the first ``cuts`` times."""

    asked: ClassVar[Counter] = Counter()
    cuts: ClassVar[int] = 0

    def copyfile(self, source: object, outputfile: object) -> None:
        self.asked[self.path] += 1
        data = source.read()
        if self.path.endswith(".tar") and self.asked[self.path] <= self.cuts:
            data = data[: len(data) // 2]
        outputfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(streamed: Path) -> Iterator[str]:
    Flaky.asked, Flaky.cuts = Counter(), 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Flaky, directory=str(streamed)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_web_server_gives_what_the_folder_gives(streamed: Path, server: str, workers: int) -> None:
    workers_ = f"data.num_workers={workers}"
    assert contents(epoch(module(server, workers_))) == contents(epoch(module(streamed, workers_)))


def test_a_broken_connection_is_retried(
    streamed: Path, server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shards, "_sleep", lambda _: None)
    data = module(server)
    Flaky.asked.clear()
    Flaky.cuts = 2
    assert contents(epoch(data)) == contents(epoch(module(streamed)))
    assert "retrying" in caplog.text
    Flaky.asked.clear()
    Flaky.cuts = 100
    with pytest.raises(PictureError, match=r"http://127.*\.tar: could not be read \(attempts: 4; "):
        epoch(data)


def test_broken_shards_are_named(streamed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_sleep", lambda _: None)
    folder = tmp_path / "cut"
    shutil.copytree(streamed, folder)
    file = next(folder.glob("PolyU-train-*"))
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:4000])
    with pytest.raises(PictureError, match=r"PolyU-train-.*\.tar: could not be read"):
        epoch(module(folder))


def copy(streamed: Path, folder: Path) -> Path:
    """Copy the shards, so that a test can damage them."""
    shutil.copytree(streamed, folder, dirs_exist_ok=True)
    return folder


def damage(folder: Path, what: str) -> None:
    """Damage the first sample in BSD400's first shard: flip one bit of its picture or description, or its headers."""
    file = min(folder.glob("BSD400-train-*"))
    with tarfile.open(file) as tar:
        members = {member.name.split(".")[1]: member for member in tar.getmembers()[:2]}
    data = bytearray(file.read_bytes())
    if what == "header":
        for member in members.values():
            data[member.offset : member.offset + 8] = b"999999999"[
                :8
            ]  # another key, and a wrong checksum of the header
    else:
        member = members[what]
        data[member.offset_data + member.size // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("what", ["clean", "json", "header"])
def test_a_damaged_sample_ends_the_run_or_is_named_and_left_out(
    streamed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Without the checksum, a network would train on a JPEG with a flipped bit."""
    damage(copy(streamed, tmp_path), what)
    named = r"BSD400-train-.*\.tar(:00000000.*damaged|: could not be read \(attempts: 1; )"
    with pytest.raises(PictureError, match=named):
        epoch(module(tmp_path))
    batches = epoch(module(tmp_path, "+data.skip_broken=true"))
    assert len(batches) == 9, "as many as without damage"
    assert re.search(named, caplog.text)
    assert "left out (data.skip_broken=true)" in caplog.text
    names = Counter(name for batch in batches for name in batch.names)
    whole = Counter(name for batch in epoch(module(streamed)) for name in batch.names)
    assert len(whole - names) == (1 if what != "header" else 2), "all other samples appear"

    status = CliRunner().invoke(app, ["prepare", "check", str(tmp_path), "--data", "denoise", *PACK])
    assert status.exit_code == 1
    assert re.search(named, status.output.replace("\n", ""))


def test_a_run_that_leaves_out_is_resumed_as_it_was(streamed: Path, tmp_path: Path) -> None:
    damage(copy(streamed, tmp_path), "clean")
    whole = epoch(module(tmp_path, "+data.skip_broken=true"))
    for start in (1, 4, 8):
        rest = epoch(module(tmp_path, "+data.skip_broken=true"), 0, start)
        for ours, expected in zip(rest, whole[start:], strict=True):
            assert ours.names == expected.names
            assert torch.equal(ours.degraded, expected.degraded)


def test_check_accepts_intact_shards(streamed: Path) -> None:
    expected = ["--set", "data.sets.BSD400.expected=4", "--set", "data.sets.PolyU.expected=4"]
    status = CliRunner().invoke(app, ["prepare", "check", str(streamed), "--data", "denoise", *PACK, *expected])
    assert status.exit_code == 0, status.output
    assert status.output.count("whole") == 2


class Troubled(SimpleHTTPRequestHandler):
    """Answers the first ``times`` requests with an error status, or not at all."""

    status: ClassVar[int | None] = None
    times: ClassVar[int] = 0
    asked: ClassVar[int] = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.asked > self.times:
            super().do_GET()
        elif self.status is None:
            time.sleep(5)
        else:
            self.send_error(self.status)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def troubled(streamed: Path) -> Iterator[str]:
    Troubled.asked = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Troubled, directory=str(streamed)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
    ("status", "times", "said"),
    [
        (503, 4, None),
        (503, 99, r"index\.json: no readable index of shards \(HTTP status 503\)"),
        (404, 99, r"index\.json: no readable index of shards \(HTTP status 404\)"),
        (None, 2, None),
        (None, 99, r"index\.json: no readable index of shards \(no answer within 0\.2 s\)"),
    ],
)
def test_a_failing_server_is_retried_or_reported(
    troubled: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int | None,
    times: int,
    said: str | None,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(shards, "_TIMEOUT", 0.2)
    monkeypatch.setattr(shards, "_WAITS", (0.01, 0.02, 0.03))
    monkeypatch.setattr(shards, "_sleep", waits.append)
    Troubled.status, Troubled.times = status, times
    if said is None:
        assert list(read_index(troubled)) == ["BSD400", "PolyU"]
        assert "could not be read (" in caplog.text
    else:
        with pytest.raises(ValueError, match=rf"{troubled}/{said}") as caught:
            read_index(troubled)
        assert "\n" not in str(caught.value)
        assert waits == ([] if status == 404 else [0.01, 0.02, 0.03])


def test_a_missing_shard_is_named_without_retries(streamed: Path, tmp_path: Path) -> None:
    shutil.copytree(streamed, tmp_path, dirs_exist_ok=True)
    for file in tmp_path.glob("PolyU-train-*"):
        file.unlink()
    with pytest.raises(PictureError, match=r"PolyU-train-.*\.tar: could not be read \(attempts: 1; FileNotFoundError"):
        epoch(module(tmp_path))


def test_another_mixture_may_join(tree: Path, tmp_path: Path) -> None:
    for name in ("polyu", "bsd400"):
        splits = [word for override in SPLITS if name.upper() in override.upper() for word in ("--set", override)]
        arguments = ["prepare", "pack", str(tree), "-o", str(tmp_path), "--data", name, "--format", "webdataset"]
        assert CliRunner().invoke(app, [*arguments, *splits]).exit_code == 0
    assert list(read_index(str(tmp_path))) == ["BSD400", "PolyU"]


def test_a_missing_webdataset_is_explained(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "webdataset" else name)
    with pytest.raises(ValueError, match=r"pip install 'moceir\[streaming\]'"):
        pack(tree, tmp_path)


def test_missing_data_are_explained(streamed: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"index\.json: no readable index of shards .*--format webdataset` writes one"):
        module(tmp_path)
    with pytest.raises(ValueError, match=r"the index does not list WED; .*data\.allow_missing=true"):
        make(
            streamed, "data._target_=moceir.data.streaming.StreamingDataModule", *SPLITS, *ONLY[:2], data="denoise"
        ).setup("fit")
    with pytest.raises(ValueError, match=r"data\.batch_size=50 exceeds the number of samples in an epoch"):
        module(streamed, "data.batch_size=50").train_dataloader()


def test_a_killed_packing_is_completed(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(tree, tmp_path / "whole")
    written = []
    original = shards.write_atomically

    def dies_at_the_third(path: Path, data: bytes, **options: bool) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        original(path, data, **options)

    monkeypatch.setattr(shards, "write_atomically", dies_at_the_third)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        pack(tree, tmp_path / "killed")
    monkeypatch.undo()
    assert not (tmp_path / "killed" / "index.json").exists()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").iterdir()}
    assert len(before) == 2
    pack(tree, tmp_path / "killed")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").iterdir()}
    assert before.items() <= after.items(), "what was finished is not made again"
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "killed" / path.name).read_bytes() == path.read_bytes()


def test_other_shards_are_not_mixed_in(tmp_path: Path, photograph: np.ndarray) -> None:
    for name in "ab":
        write_picture(tmp_path / "in" / f"{name}.png", photograph)
    arguments = ["prepare", "pack", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--data", "photographs"]
    arguments += ["--format", "webdataset", "--set", "data.sets.photographs.validation=0"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    (tmp_path / "in" / "b.png").unlink()
    run = CliRunner().invoke(app, arguments)
    assert isinstance(run.exception, ValueError)
    assert "written from other pictures or with other settings; choose an empty folder" in str(run.exception)
