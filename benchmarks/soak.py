"""``make soak``: restore thousands of pictures, kill training again and again, and see that nothing grows or is lost.

Training: each life of a run of a tiny network is ended at a random moment, from its start to its end, by SIGKILL or
SIGTERM, and the next goes on with resume=latest; the run that gets through must have the very bits of one that nobody
disturbed. Restoring: a folder, killed like that, whose files must be those of an undisturbed run, and none made twice;
a clip with sound; then pictures of many sizes one by one, and from four threads at once with one Restorer, whose
pictures must be the same. Resident memory is watched.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import safetensors.torch
import torch

import moceir
from moceir.engine.allocator import keep_freed_memory
from moceir.pictures.arrays import write_picture

SETTINGS = [
    "network.dim=4", "network.num_blocks=[1,1]", "network.num_decoder_blocks=[1]", "network.num_heads=[1,2]",
    "network.num_refinement_blocks=1", "data=photographs", "data.sets.photographs.validation=1",
    "data.sets.photographs.repeat=8", "debug=quick", "loss=l1", "data.crop=32", "trainer.max_epochs=3",
    "callbacks.last.minutes=0", "~callbacks.progress", "resume=latest",
]  # fmt: skip

MOMENTS = {"start": 2.0, "training": 0.5, "validation": 0.1, "checkpoint": 0.03, "end": 0.05}
"""When a run is ended -> at most so many seconds after it has begun with that."""


def restore(count: int, seed: int) -> dict[str, float]:
    """Restore so many pictures one by one and from four threads."""
    keep_freed_memory()
    rng = np.random.default_rng(seed)
    # Sides up to 64, and now and then a large one, so that every buffer has been as large as it gets before the middle.
    sizes = [tuple(rng.integers(1, 65 if number % 50 else 200, 2)) for number in range(min(count, 100))]
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    restorer = moceir.Restorer(moceir.load_pretrained())
    process = psutil.Process()
    alone = [restorer.restore(picture) for picture in pictures]

    resident = []
    for number in range(count):
        same = np.array_equal(restorer.restore(pictures[number % len(pictures)]), alone[number % len(pictures)])
        if not same:
            raise SystemExit(f"restore {number}: another result than at first")
        resident.append(process.memory_info().rss / 2**20)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(restorer.restore, pictures))
    different = sum(not np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    if different:
        raise SystemExit(f"four threads: {different} of {len(pictures)} pictures differ from those restored alone")
    early, late = check_flat(resident, "restores")
    return {
        "restores": count,
        "resident_early_mib": early,
        "resident_late_mib": late,
        "from_four_threads": len(together),
    }


def start(function: Callable[[], None], output: Path) -> int:
    """The id of a new process that does this; forked, so that it need not import anything again."""
    process = os.fork()
    if not process:
        status = 1
        try:
            with output.open("ab") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            function()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        finally:
            os._exit(status)
    return process


def train(runs: Path, photographs: Path, moment: Path) -> None:
    """The training command, to be ended; what it is doing stands in a file."""
    from moceir.cli import train as command
    from moceir.training.checkpoints import CheckpointFiles
    from moceir.training.module import RestorationModule

    file = os.open(moment, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def mark(owner: Any, name: str, what: str) -> None:
        original = getattr(owner, name)

        def marked(*arguments: Any, **options: Any) -> Any:
            before = os.pread(file, 16, 0)
            os.pwrite(file, f"{what:16}".encode(), 0)
            returned = original(*arguments, **options)
            if what == "checkpoint":
                os.pwrite(file, before, 0)
            return returned

        setattr(owner, name, marked)

    os.pwrite(file, f"{'start':16}".encode(), 0)
    mark(RestorationModule, "training_step", "training")
    mark(RestorationModule, "validation_step", "validation")
    mark(CheckpointFiles, "save_checkpoint", "checkpoint")
    mark(command, "load_network", "end")
    logging.getLogger().handlers.clear()
    sys.argv = ["train", *SETTINGS, f"data.root={photographs}", f"paths.runs={runs}"]
    command.main()


def during(moment: Path) -> str:
    """What a run is doing."""
    return (moment.read_text().strip() if moment.exists() else "") or "start"


def result(runs: Path) -> dict[str, torch.Tensor]:
    """All tensors that a run leaves: averaged, current and exported weights, and the optimiser's state."""
    (exported,) = runs.glob("*/*/network.safetensors")
    (last,) = runs.glob("*/*/checkpoints/last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    tensors = {f"exported/{name}": value for name, value in safetensors.torch.load_file(exported).items()}
    for part in ("state_dict", "current_model_state"):
        tensors |= {f"{part}/{name}": value for name, value in checkpoint[part].items()}
    for number, state in checkpoint["optimizer_states"][0]["state"].items():
        tensors |= {f"optimizer/{number}/{name}": value for name, value in state.items()}
    return tensors


def kill(count: int, seed: int, folder: Path) -> dict[str, object]:
    """End training so many times, at any moment of its life, and compare what comes of it with an undisturbed run."""
    import moceir.cli.train  # noqa: F401 -- once, before the forks

    rng = np.random.default_rng(seed)
    for number in range(5):
        small = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        write_picture(folder / "photographs" / f"{number}.png", small.repeat(6, axis=0).repeat(6, axis=1))
    photographs, output, moment = folder / "photographs", folder / "output.txt", folder / "moment"

    process = start(partial(train, folder / "whole", photographs, moment), output)
    if os.waitpid(process, 0)[1]:
        raise SystemExit(f"the undisturbed run failed: see {output}\n{output.read_text()[-2000:]}")
    expected = result(folder / "whole")

    ended: Counter[str] = Counter()
    moments: Counter[str] = Counter()
    runs = 0
    while sum(ended.values()) < count:
        runs += 1
        here = folder / f"run{runs}"
        while True:
            how = signal.SIGKILL if rng.random() < 0.5 else signal.SIGTERM
            when = str(rng.choice(list(MOMENTS)))
            moment.unlink(missing_ok=True)
            process = start(partial(train, here, photographs, moment), output)
            end = math.inf  # a little after that moment has come, or never, where the last signal was sent
            done = 0
            while not done and time.monotonic() < end:
                if end == math.inf and sum(ended.values()) < count and during(moment) == when:
                    end = time.monotonic() + rng.uniform(0, MOMENTS[when])
                done, status = os.waitpid(process, os.WNOHANG)
                time.sleep(0.001)
            if not done:
                os.kill(process, how)
                status = os.waitpid(process, 0)[1]
            code = os.waitstatus_to_exitcode(status)
            if code == 0:
                break
            # Before Python listens to it, a signal kills like any program.
            if code not in (-how, 128 + how):
                raise SystemExit(f"run {runs} ended with status {code}: see {output}\n{output.read_text()[-2000:]}")
            ended[how.name] += 1
            moments[during(moment)] += 1
        found = result(here)
        different = [name for name in expected if not torch.equal(expected[name], found.get(name, torch.empty(0)))]
        if different or found.keys() != expected.keys():
            raise SystemExit(f"run {runs}: {len(different)} of {len(expected)} tensors differ, such as {different[:3]}")
    return {
        "ended": dict(ended), "during": dict(moments), "runs_to_the_end": runs, "tensors_identical": len(expected),
    }  # fmt: skip


def restore_folder(count: int, kills: int, seed: int, folder: Path) -> dict[str, object]:
    """Restore a folder, killed so many times at any moment, and compare what comes of it with an undisturbed run."""
    from moceir.cli.main import main as command

    rng = np.random.default_rng(seed)
    for number in range(count):
        picture = rng.integers(0, 256, (*rng.integers(16, 97, 2), 3), dtype=np.uint8)
        write_picture(folder / "album" / f"{number:04d}.png", picture)

    def restore_into(target: Path) -> None:
        logging.getLogger().handlers.clear()
        sys.argv = ["moceir", "restore", str(folder / "album"), "-o", str(target)]
        command()

    whole, target, output = folder / "undisturbed", folder / "ended", folder / "restored.txt"
    begin = time.monotonic()
    process = start(partial(restore_into, whole), output)
    if os.waitpid(process, 0)[1]:
        raise SystemExit(f"the undisturbed run failed: see {output}\n{output.read_text()[-2000:]}")
    took = time.monotonic() - begin

    killed, made_twice = 0, 0
    before: dict[str, int] = {}
    while True:
        end = time.monotonic() + (rng.uniform(0, 1.5 * took / kills) if killed < kills else math.inf)
        process = start(partial(restore_into, target), output)
        done = status = 0
        while not done and time.monotonic() < end:
            time.sleep(0.002)
            done, status = os.waitpid(process, os.WNOHANG)
        if not done:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            killed += 1
        after = {path.name: path.stat().st_mtime_ns for path in target.glob("*.png")}
        made_twice += sum(after.get(name) != written for name, written in before.items())
        before = after
        if done:
            break
    if status:
        raise SystemExit(f"the last run failed: see {output}\n{output.read_text()[-2000:]}")
    different = [path.name for path in whole.iterdir() if path.read_bytes() != (target / path.name).read_bytes()]
    left = [path.name for path in target.iterdir() if not (whole / path.name).exists()]
    if different or left or made_twice:
        raise SystemExit(
            f"killed runs: {len(different)} files differ, {made_twice} were made again, left behind: {left}"
        )
    return {"pictures": count, "killed": killed, "files_identical": len(before), "undisturbed_seconds": round(took, 1)}


def restore_clip(frames: int, seed: int, folder: Path) -> dict[str, object]:
    """Restore a clip with sound, of uneven frame times, while resident memory is watched."""
    import av

    from moceir.inference.video import restore_video

    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:48, 0:64]
    with av.open(str(folder / "clip.mp4"), "w") as clip:
        video = clip.add_stream("libx264", rate=30)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, 90)
        sound = clip.add_stream("aac", rate=48000, layout="stereo")
        for index, shown in enumerate(np.cumsum(rng.integers(1, 5, frames)).tolist()):
            picture = np.stack([columns * 2 + index, rows * 3, rows + columns + index], axis=-1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = shown, Fraction(1, 90)
            clip.mux(video.encode(frame))
        for index in range(frames):
            noise = rng.normal(0, 0.1, (2, 1024)).astype(np.float32)
            part = av.AudioFrame.from_ndarray(noise, format="fltp", layout="stereo")
            part.sample_rate, part.pts, part.time_base = 48000, 1024 * index, Fraction(1, 48000)
            clip.mux(sound.encode(part))
        clip.mux(video.encode())
        clip.mux(sound.encode())

    def content(path: Path) -> tuple[list, list]:
        """Times of the frames, and times and packets of the sound."""
        with av.open(str(path)) as clip:
            times = [frame.time for frame in clip.decode(video=0)]
        with av.open(str(path)) as clip:
            return times, [(packet.pts, bytes(packet)) for packet in clip.demux(audio=0) if packet.dts is not None]

    process, resident = psutil.Process(), []
    restorer = moceir.Restorer(moceir.load_pretrained())
    report = restore_video(
        restorer,
        folder / "clip.mp4",
        folder / "restored.mp4",
        seen=lambda _: resident.append(process.memory_info().rss / 2**20),
    )
    before, after = content(folder / "clip.mp4"), content(folder / "restored.mp4")
    if report.frames != frames or before != after:
        raise SystemExit("the clip's frame times or packets of sound are others than before")
    early, late = check_flat(resident, "frames")
    return {
        "frames": frames, "packets_identical": len(before[1]), "resident_early_mib": early, "resident_late_mib": late
    }  # fmt: skip


def check_flat(resident: Sequence[float], what: str) -> tuple[float, float]:
    """Resident memory in MiB, early and late, which may not have grown."""
    fifth = max(1, len(resident) // 5)  # freed memory is kept, and takes some hundred pictures to settle
    early, late = (float(np.median(part)) for part in (resident[fifth : 2 * fifth], resident[-fifth:]))
    if late > early + max(16, early / 50):
        raise SystemExit(f"resident memory grew from {early:.1f} to {late:.1f} MiB over {len(resident)} {what}")
    return early, late


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restores", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=100, help="Of training; a folder is killed ten times.")
    parser.add_argument("--pictures", type=int, default=200, help="In the folder.")
    parser.add_argument("--frames", type=int, default=1000, help="Of the clip.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="Kept; by default a temporary one.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.kills:
            print(json.dumps({"training": kill(arguments.kills, arguments.seed, folder)}), flush=True)
        if arguments.pictures:
            report = restore_folder(arguments.pictures, min(10, arguments.pictures), arguments.seed, folder)
            print(json.dumps({"folder": report}), flush=True)
        if arguments.frames:
            print(json.dumps({"clip": restore_clip(arguments.frames, arguments.seed, folder)}), flush=True)
        if arguments.restores:
            print(json.dumps({"restoring": restore(arguments.restores, arguments.seed)}), flush=True)


if __name__ == "__main__":
    main()
