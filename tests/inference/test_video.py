"""Restores a clip with sound and uneven frame times, with a network that changes nothing."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from processes import forked

from moceir import MoCEIR, Restorer
from moceir.inference.restore import Stopped
from moceir.inference.video import restore_video
from moceir.networks.naf import NAFNet
from moceir.pictures import video
from moceir.pictures.files import remove_leftovers
from moceir.pictures.picture import PictureError
from moceir.pictures.segments import Packet, Segments

av = pytest.importorskip("av", reason="needs PyAV: pip install 'moceir[video]'")


def make_clip(
    path: Path, *, frames: int = 30, cut: int | None = None, pix_fmt: str = "yuv420p", codec: str = "libx264"
) -> None:
    """Write a clip: a moving pattern at uneven times, with noise as sound, and another pattern from frame ``cut``."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:48, 0:64]
    with av.open(str(path), "w") as clip:
        video = clip.add_stream(codec, rate=30, options={"crf": "12"})
        video.height, video.width, video.pix_fmt = 48, 64, pix_fmt
        video.time_base = video.codec_context.time_base = Fraction(1, 90)
        sound = clip.add_stream("aac", rate=48000, layout="stereo")
        for index, time in enumerate(np.cumsum(rng.integers(1, 5, frames))):
            values = [columns * 2 + index, rows * 3, rows + columns + index]
            picture = np.stack([value % 256 for value in values], axis=-1).astype(np.uint8)
            if cut is not None and index >= cut:
                picture = 255 - picture // 4
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = int(time), Fraction(1, 90)
            clip.mux(video.encode(frame))
        for index in range(40):
            noise = rng.normal(0, 0.1, (2, 1024)).astype(np.float32)
            part = av.AudioFrame.from_ndarray(noise, format="fltp", layout="stereo")
            part.sample_rate, part.pts, part.time_base = 48000, 1024 * index, Fraction(1, 48000)
            clip.mux(sound.encode(part))
        clip.mux(video.encode())
        clip.mux(sound.encode())


def read(path: Path) -> tuple[list[float], np.ndarray, list[tuple[float, bytes]]]:
    """Return times and pixels of the frames, and times and contents of the sound's packets."""
    with av.open(str(path)) as clip:
        frames = [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in clip.decode(video=0)]
    with av.open(str(path)) as clip:
        packets = [
            (float(packet.pts * packet.time_base), bytes(packet))
            for packet in clip.demux(audio=0)
            if packet.dts is not None
        ]
    return [time for time, _ in frames], np.stack([pixels for _, pixels in frames]), packets


def make_restorer(*, routed: bool = True) -> Restorer:
    if not routed:
        return Restorer(NAFNet(dim=4, num_blocks=(1, 1), num_decoder_blocks=(1,)), mac_budget=None)
    network = MoCEIR(num_blocks=(1, 1), num_decoder_blocks=(1,), num_heads=(1, 2), num_refinement_blocks=1)
    return Restorer(network, mac_budget=None)


@pytest.fixture(scope="module")
def identity() -> Restorer:
    return make_restorer()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_times_and_sound_are_kept(identity: Restorer, tmp_path: Path, suffix: str) -> None:
    make_clip(tmp_path / f"in{suffix}")
    shares: list[float] = []
    report = restore_video(identity, tmp_path / f"in{suffix}", tmp_path / "out" / f"a{suffix}", seen=shares.append)
    assert (report.height, report.width, report.frames) == (48, 64, 30)
    before, after = read(tmp_path / f"in{suffix}"), read(tmp_path / "out" / f"a{suffix}")
    assert after[0] == before[0]
    assert after[2] == before[2]
    assert -10 * np.log10(np.mean((after[1] / 255 - before[1] / 255) ** 2)) > 38
    assert shares == sorted(shares)
    assert shares[-1] > 0.9


def test_ten_bits_stay_ten_bits(identity: Restorer, tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mp4", pix_fmt="yuv420p10le", frames=5)
    assert restore_video(identity, tmp_path / "in.mp4", tmp_path / "out.mp4").depth == "uint16"
    with av.open(str(tmp_path / "out.mp4")) as clip:
        assert clip.streams.video[0].pix_fmt == "yuv420p10le"


def test_the_codec_is_kept(identity: Restorer, tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mp4", codec="libsvtav1", frames=5)  # its decoder has another name
    restore_video(identity, tmp_path / "in.mp4", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as clip:
        assert clip.streams.video[0].codec_context.codec.canonical_name == "av1"


def test_unsupported_containers_are_found_before_computing(
    identity: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "restore_pixels", lambda *_, **__: pytest.fail("computed"))
    make_clip(tmp_path / "in.mp4", frames=5)
    with pytest.raises(PictureError, match=r"in\.mp4: 'webm' format does not support 'aac' codec, .* use \.mkv"):
        restore_video(identity, tmp_path / "in.mp4", tmp_path / "out" / "a.webm")
    assert not list((tmp_path / "out").iterdir())


def test_a_shot_has_one_route(identity: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip(tmp_path / "in.mp4", frames=12, cut=7)
    asked = []
    run = identity.run

    def watched(*arguments: object, experts: object = None, **options: object) -> object:
        asked.append(experts is None)
        return run(*arguments, experts=experts, **options)

    monkeypatch.setattr(identity, "run", watched)
    restore_video(identity, tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert [index for index, free in enumerate(asked) if free] == [0, 7]


def test_stopped_or_failed_runs_leave_no_files(identity: Restorer, tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mp4")
    stop = Event()
    with pytest.raises(Stopped):
        restore_video(
            identity,
            tmp_path / "in.mp4",
            tmp_path / "out" / "a.mp4",
            stop=stop,
            seen=lambda share: stop.set() if share > 0.5 else None,
        )
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(PictureError, match=r"text\.mp4: not a readable video"):
        restore_video(identity, tmp_path / "text.mp4", tmp_path / "out" / "b.mp4")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(os.name != "posix", reason="forks")
@pytest.mark.parametrize(
    ("where", "done", "routed"),
    [
        ("in the third segment", 14, True),
        ("as the third is written", 14, True),
        ("at the end", 24, True),
        ("at the end", 24, False),
    ],
)
def test_a_killed_run_continues_after_the_last_complete_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, done: int, routed: bool
) -> None:
    """A shot begins in the second segment, and the third segment needs its route, if the network has routes."""
    identity = make_restorer(routed=routed)
    monkeypatch.setattr(video, "SEGMENT", 7)
    # Not H.264: of 8,400 encodings of the same frames by x264 on a busy machine, 9 differed; of 3,000 without its
    # assembly, none.
    make_clip(tmp_path / "in.mp4", frames=24, cut=11, codec="libx265")
    whole, target = tmp_path / "whole.mp4", tmp_path / "out" / "a.mp4"
    restore_video(identity, tmp_path / "in.mp4", whole)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        restorer = make_restorer(routed=routed)
        frames = []
        restore, add = restorer.restore_pixels, Segments.add

        def restoring(*arguments: Any, **options: Any) -> Any:
            frames.append(None)
            if where == "in the third segment" and len(frames) == 18:
                die()
            return restore(*arguments, **options)

        def adding(segments: Segments, packets: list[Packet], about: dict) -> None:
            add(segments, packets, about)
            if where == "as the third is written" and len(segments.done) == 3:
                os.truncate(segments.path, segments.path.stat().st_size - 5)
                die()
            if segments.frames == 24:
                die()

        restorer.restore_pixels, Segments.add = restoring, adding  # type: ignore[method-assign,assignment]
        restore_video(restorer, tmp_path / "in.mp4", target)

    assert forked(killed) == -signal.SIGKILL
    assert not target.exists()
    routes = []
    restore = identity.restore_pixels

    def watched(*arguments: Any, experts: Any = None, **options: Any) -> Any:
        routes.append(experts is None)
        return restore(*arguments, experts=experts, **options)

    monkeypatch.setattr(identity, "restore_pixels", watched)
    remove_leftovers(target.parent)  # every run over files does this
    restore_video(identity, tmp_path / "in.mp4", target)
    assert len(routes) == 24 - done
    assert not any(routes)
    assert target.read_bytes() == whole.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["a.mp4"]


def test_segments_of_other_settings_are_discarded(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    with suppress(KeyboardInterrupt), Segments(target, "settings") as segments:
        with pytest.raises(PictureError, match=r"a\.mp4: another run restores into it"):
            Segments(target, "settings")
        segments.add([Packet(3, True, b"abc"), Packet(1, False, b"de")], {"state": [1]})
        raise KeyboardInterrupt
    with suppress(KeyboardInterrupt), Segments(target, "settings") as segments:
        assert list(segments.packets()) == [Packet(3, True, b"abc"), Packet(1, False, b"de")]
        assert segments.done[0].about == {"state": [1]}
        raise KeyboardInterrupt
    with Segments(target, "others") as segments:
        assert not segments.done
    assert not list(tmp_path.iterdir())
