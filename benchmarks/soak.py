"""``make soak`` restores thousands of pictures and kills training repeatedly, and checks that nothing is lost.

Training: SIGKILL or SIGTERM ends the training of a tiny network at random moments, from its start to its end, and
resume=latest continues it. The finished run must equal an uninterrupted one bit for bit. Restoring: SIGKILL interrupts
the restoring of a folder, which must write the same files as an uninterrupted run and write none twice. Then the
benchmark restores a clip with sound. Last, one Restorer restores pictures of many sizes one by one and from four
threads, and the results must be equal. Resident memory must not grow.
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

LONGEST_DELAY = {"start": 2.0, "training": 0.5, "validation": 0.1, "checkpoint": 0.03, "end": 0.05}
"""Phase of a run -> the longest delay in seconds between its begin and the signal."""


def restore(count: int, seed: int) -> dict[str, float]:
    """Restore ``count`` times one by one, then each picture once from four threads."""
    keep_freed_memory()
    rng = np.random.default_rng(seed)
    # Sides are at most 64, with a few larger ones, so that buffers reach their final size before the middle.
    sizes = [tuple(rng.integers(1, 65 if number % 50 else 200, 2)) for number in range(min(count, 100))]
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    restorer = moceir.Restorer(moceir.load_pretrained())
    process = psutil.Process()
    alone = [restorer.restore(picture) for picture in pictures]

    resident = []
    for number in range(count):
        same = np.array_equal(restorer.restore(pictures[number % len(pictures)]), alone[number % len(pictures)])
        if not same:
            raise SystemExit(f"restore {number}: the result differs from the first one")
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
    """Return the ID of a forked process that calls the function; it needs no imports of its own."""
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


def train(runs: Path, photographs: Path, phase_file: Path) -> None:
    """Run the training command, and write its current phase to a file."""
    from moceir.cli import train as command
    from moceir.training.checkpoints import CheckpointFiles
    from moceir.training.module import RestorationModule

    file = os.open(phase_file, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def mark(owner: Any, name: str, phase: str) -> None:
        original = getattr(owner, name)

        def marked(*arguments: Any, **options: Any) -> Any:
            previous = os.pread(file, 16, 0)
            os.pwrite(file, f"{phase:16}".encode(), 0)
            returned = original(*arguments, **options)
            if phase == "checkpoint":
                os.pwrite(file, previous, 0)
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


def current_phase(path: Path) -> str:
    """Return the phase that a run wrote to its file."""
    return (path.read_text().strip() if path.exists() else "") or "start"


def saved_tensors(runs: Path) -> dict[str, torch.Tensor]:
    """Return all tensors that a run saves: averaged, current, and exported weights, and the optimiser's state."""
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
    """Interrupt training ``count`` times, in any phase, and compare the result with an uninterrupted run."""
    import moceir.cli.train  # noqa: F401 -- imported once, before the forks

    rng = np.random.default_rng(seed)
    for number in range(5):
        small = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        write_picture(folder / "photographs" / f"{number}.png", small.repeat(6, axis=0).repeat(6, axis=1))
    photographs, output, phase_file = folder / "photographs", folder / "output.txt", folder / "phase"

    process = start(partial(train, folder / "whole", photographs, phase_file), output)
    if os.waitpid(process, 0)[1]:
        raise SystemExit(f"the uninterrupted run failed: see {output}\n{output.read_text()[-2000:]}")
    expected = saved_tensors(folder / "whole")

    ended: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    runs = 0
    while sum(ended.values()) < count:
        runs += 1
        target = folder / f"run{runs}"
        while True:
            sent = signal.SIGKILL if rng.random() < 0.5 else signal.SIGTERM
            phase = str(rng.choice(list(LONGEST_DELAY)))
            phase_file.unlink(missing_ok=True)
            process = start(partial(train, target, photographs, phase_file), output)
            end = math.inf  # a little after the phase begins; never, if no signal is left
            done = 0
            while not done and time.monotonic() < end:
                if end == math.inf and sum(ended.values()) < count and current_phase(phase_file) == phase:
                    end = time.monotonic() + rng.uniform(0, LONGEST_DELAY[phase])
                done, status = os.waitpid(process, os.WNOHANG)
                time.sleep(0.001)
            if not done:
                os.kill(process, sent)
                status = os.waitpid(process, 0)[1]
            code = os.waitstatus_to_exitcode(status)
            if code == 0:
                break
            # SIGTERM kills the process while Python has no handler for it.
            if code not in (-sent, 128 + sent):
                raise SystemExit(f"run {runs} ended with status {code}: see {output}\n{output.read_text()[-2000:]}")
            ended[sent.name] += 1
            phases[current_phase(phase_file)] += 1
        found = saved_tensors(target)
        different = [name for name in expected if not torch.equal(expected[name], found.get(name, torch.empty(0)))]
        if different or found.keys() != expected.keys():
            raise SystemExit(f"run {runs}: {len(different)} of {len(expected)} tensors differ, such as {different[:3]}")
    return {
        "ended": dict(ended), "during": dict(phases), "runs_to_the_end": runs, "tensors_identical": len(expected),
    }  # fmt: skip


def restore_folder(count: int, kills: int, seed: int, folder: Path) -> dict[str, object]:
    """Restore a folder, kill the process ``kills`` times, and compare the files with an uninterrupted run."""
    from moceir.cli.main import main as command

    rng = np.random.default_rng(seed)
    for number in range(count):
        picture = rng.integers(0, 256, (*rng.integers(16, 97, 2), 3), dtype=np.uint8)
        write_picture(folder / "album" / f"{number:04d}.png", picture)

    def restore_into(target: Path) -> None:
        logging.getLogger().handlers.clear()
        sys.argv = ["moceir", "restore", str(folder / "album"), "-o", str(target)]
        command()

    whole, target, output = folder / "uninterrupted", folder / "killed", folder / "restored.txt"
    begin = time.monotonic()
    process = start(partial(restore_into, whole), output)
    if os.waitpid(process, 0)[1]:
        raise SystemExit(f"the uninterrupted run failed: see {output}\n{output.read_text()[-2000:]}")
    duration = time.monotonic() - begin

    killed, made_twice = 0, 0
    before: dict[str, int] = {}
    while True:
        end = time.monotonic() + (rng.uniform(0, 1.5 * duration / kills) if killed < kills else math.inf)
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
            f"killed runs: {len(different)} files differ, {made_twice} were written twice, surplus files: {left}"
        )
    return {
        "pictures": count,
        "killed": killed,
        "files_identical": len(before),
        "undisturbed_seconds": round(duration, 1),
    }


def restore_clip(frames: int, seed: int, folder: Path) -> dict[str, object]:
    """Restore a clip with sound and uneven frame times, and check resident memory."""
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
        """Return the times of the frames, and the times and packets of the sound."""
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
        raise SystemExit("the restored clip has other frame times or sound packets than the original")
    early, late = check_flat(resident, "frames")
    return {
        "frames": frames, "packets_identical": len(before[1]), "resident_early_mib": early, "resident_late_mib": late
    }  # fmt: skip


def check_flat(resident: Sequence[float], what: str) -> tuple[float, float]:
    """Return early and late resident memory in MiB; raise SystemExit if it has grown."""
    fifth = max(1, len(resident) // 5)  # the allocator keeps freed memory, which settles after some hundred pictures
    early, late = (float(np.median(part)) for part in (resident[fifth : 2 * fifth], resident[-fifth:]))
    if late > early + max(16, early / 50):
        raise SystemExit(f"resident memory grew from {early:.1f} to {late:.1f} MiB over {len(resident)} {what}")
    return early, late


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restores", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=100, help="How often to kill training (restoring: ten times).")
    parser.add_argument("--pictures", type=int, default=200, help="Number of pictures in the folder.")
    parser.add_argument("--frames", type=int, default=1000, help="Number of frames in the clip.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="Folder to keep the files in; by default a temporary one.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a forked process does not inherit its parent's threads
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
