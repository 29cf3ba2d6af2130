"""``make commands``: run every command that the README and the pages in ``docs/`` show, on small data.

The script works in a scratch folder. It replaces placeholders such as FOLDER with small folders, and ``moceir serve``
listens on a free port. Commands that take hours, need a cluster, or install packages are not run as shown; ``INSTEAD``
has a smaller form of each, or the reason. The script lists each command with the executed form, and its status is 1 if
one fails. With a regular expression as argument, it runs only the commands that match.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import httpx
import numpy as np
from native_tree import make_native_tree
from shown import ROOT, Shown, blocks

from moceir.data.samples import sample_photograph
from moceir.pictures.arrays import read_picture, write_picture

QUICK = (
    "debug=quick data.crop=32 network.num_blocks=[1,1] network.num_decoder_blocks=[1] network.num_heads=[1,2] "
    "network.num_refinement_blocks=1 trainer.log_every_n_steps=1 ~callbacks.progress loss.weights.perceptual=0"
)
"""Overrides that reduce a training run to seconds."""
INSTEAD = (
    (r"^make test$", None, "it is the suite that this belongs to"),
    (r"^make demo$", "moceir demo -o demo", ""),
    (r"^pip install", None, "installs; the suite compares extras with pyproject.toml"),
    (r"^(torchrun|srun) ", None, "needs two machines; the suite composes its settings, and trains with two processes"),
    (r"^python examples/ray_restore", None, "needs Ray"),
    (
        r"^moceir publish hub",
        "moceir evaluate photographs --sigma 15 --json scores.json && moceir publish hub -o hub --scores scores.json",
        "",
    ),
    (r"^moceir worth", "moceir worth photographs --weights moce_ir_30g --side 32", ""),
    (
        r"^moceir fit-router",
        "moceir fit-router -o fitted.safetensors --crops 20 data=photographs data.root=photographs data.crop=48 "
        "data.batch_size=4 data.sets.photographs.validation=0 data.sets.photographs.repeat=20",
        "",
    ),
    (r"^wandb sweep", None, "needs an account"),
    (r"^tensorboard", None, "does not end"),
    (r"moceir\.cli\.train hydra\.searchpath", None, "tests/test_extending.py runs it"),
    (r"--cfg job", "python -m moceir.cli.train --cfg job", ""),
    (r"https://HOST/SHARDS", "moceir train data=streaming data.root=SHARDS data.num_workers=1", ""),
)
"""Pattern of a command -> the command to run instead (None to run nothing), and the reason."""


EXPECTED = (
    (r"^moceir prepare check", 1, "names what the miniatures lack, and ends with status 1, as it should"),
    (r"--precision int8", 2, "8 bits lose too much with these weights, so it is refused, as the page says"),
)
"""Pattern of a command -> the expected status if it is not 0, and the reason."""


def prepare(folder: Path) -> dict[str, str]:
    """Create the files that the commands name, and return placeholder -> folder."""
    photograph = cv2.resize(read_picture(sample_photograph("astronaut.png")), (96, 80), interpolation=cv2.INTER_AREA)
    noisy = (
        (photograph + np.random.default_rng(0).normal(0, 15, photograph.shape)).clip(0, 255).round().astype(np.uint8)
    )
    for name in (
        "noisy.jpg",
        "noisy.png",
        "noisy.tif",
        "photo.tif",
        "holiday/a.jpg",
        "holiday/b/c.png",
        "scans/1/d.tif",
    ):
        write_picture(folder / name, noisy)
    cv2.imwrite(str(folder / "noisy.ppm"), noisy[..., ::-1])
    video = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 80))
    for _ in range(3):
        video.write(noisy[..., ::-1])
    video.release()
    shutil.copy(ROOT / "moceir" / "weights" / "moce_ir_30g.safetensors", folder / "network.safetensors")
    make_native_tree(folder / "tree")
    for path in (folder / "tree").rglob("*.*"):
        if path.suffix != ".mat" and min((small := read_picture(path)).shape[:2]) < 128:  # the size of the crop
            write_picture(path, small.repeat(2, axis=0).repeat(2, axis=1))
    large, tree = photograph.repeat(2, axis=0).repeat(2, axis=1), folder / "tree"
    for number in range(10):  # more than are held out
        write_picture(tree / "BSD400" / f"more_{number}.png", large)
        for kind in ("mean", "real"):
            write_picture(tree / "PolyU" / "CroppedImages" / f"Camera{number}_5_160_3200_more_1_{kind}.JPG", large)
    for kind in ("GT", "NOISY"):
        scene = "0003_001_S6_00100_00060_3200_L"
        write_picture(tree / "SIDD_Medium_Srgb" / "Data" / scene / f"0003_{kind}_SRGB_010.PNG", large)
    for number in range(14):  # likewise
        write_picture(folder / "pairs" / "clean" / f"{number}.png", photograph)
        write_picture(folder / "pairs" / "degraded" / f"{number}.png", noisy)
        write_picture(folder / "photographs" / f"{number}.png", photograph)
    shutil.copytree(ROOT / "examples", folder / "examples")
    tree = str(folder / "tree")
    (folder / "list.txt").write_text("".join(f"{path}\n" for path in (folder / "photographs").iterdir()))
    return {"ROOT": tree, "FOLDER": tree, "TILED": "tiled", "PACKED": "packed", "SHARDS": str(folder / "shards")}


def command(shown: Shown, places: dict[str, str]) -> tuple[str | None, str]:
    """Return the command to run for a shown command, or the reason to run none."""
    line = shown.line
    for pattern, other, reason in INSTEAD:
        if re.search(pattern, line):
            line = other or ""
            if not line:
                return None, reason
    overrides = shown.overrides if line == shown.line else None
    if overrides is not None:
        many = ["-m"] if "-m" in overrides else []
        line = shlex.join(["moceir", "train", *many, *(word for word in overrides if word != "-m")])
    if line.startswith("moceir train") and "--cfg" not in line:
        pairs = "experiment=tune" in line
        if pairs or "data=photographs" in line or line.startswith("moceir evaluate"):
            line = line.replace("FOLDER", "pairs" if pairs else "photographs")
        quick = QUICK.replace("debug=quick", "trainer=cpu trainer.max_epochs=1 data.batch_size=4") if pairs else QUICK
        if pairs:  # use the network of the initial weights
            quick = " ".join(word for word in quick.split() if not word.startswith("network."))
        name = re.search(r"stage=(stage\d)", line)
        line += f" {quick} paths.runs=runs" + (f" name={name[1]}" if name else "")
        if "stage=stage2" in line or "stage=stage3" in line:
            line += " init_from=$(ls -d runs/stage1/*/network.safetensors | tail -1)"
        if " -m " in line:
            line += " name=stage1"
    if line.startswith("moceir evaluate FOLDER --data pairs"):
        line = line.replace("FOLDER", "pairs")
    elif line.startswith("moceir evaluate FOLDER"):
        line = line.replace("FOLDER", "photographs")
    line = line.replace("/photos", "photographs").replace("/restored", "restored")
    line = re.sub(r"(runs/\w+)/TIME", r"$(ls -d \1/* | tail -1)", line)
    for word, place in places.items():
        line = re.sub(rf"\b{word}\b", place, line)
    return line, ""


def serve(line: str, environment: dict[str, str], folder: Path) -> tuple[int, int]:
    """Start the server on a free port, send a request, end it, and return its exit status and the port."""
    words = [word for word in re.sub(r"--(host|port) \S+", "", line).split() if word]
    log = folder / "serve.log"
    with log.open("wb") as file:
        server = subprocess.Popen([*words, "--port", "0"], env=environment, cwd=folder, stderr=file)
    try:
        while not (found := re.search(r"open (http://\S+) in", log.read_text())):
            if server.poll() is not None:
                return server.returncode, 0
            time.sleep(0.1)
        wait = time.monotonic() + 120
        while time.monotonic() < wait:
            try:
                httpx.get(f"{found[1]}/healthz", trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        for asked in (one for one in blocks() if one.line.startswith("curl ")):
            line = asked.line.replace("http://127.0.0.1:8000", found[1]).replace(
                "curl ", "curl --fail --noproxy '*' -sS "
            )
            if code := subprocess.run(line, shell=True, cwd=folder, env=environment).returncode:
                return code, 0
    finally:
        server.send_signal(signal.SIGTERM)
    return server.wait(), 1


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="moceir-commands-"))
    places = prepare(folder)
    bin = folder / "bin"
    bin.mkdir()
    (bin / "moceir").write_text(f'#!/bin/sh\nexec {sys.executable} -m moceir "$@"\n')
    for name in ("python", "python3"):
        (bin / name).write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for file in bin.iterdir():
        file.chmod(0o755)
    path = f"{bin}{os.pathsep}{os.environ['PATH']}"
    quiet = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    environment = {**os.environ, **quiet, "PATH": path, "PYTHONPATH": str(ROOT)}
    done: dict[str, tuple[int | None, str]] = {}
    wanted = re.compile(sys.argv[1] if len(sys.argv) > 1 else "")
    for shown in blocks():
        if shown.line in done or not wanted.search(shown.line) or shown.line.startswith("curl "):
            continue
        line, reason = command(shown, places)
        begun = time.monotonic()
        if line is None:
            done[shown.line] = None, reason
        elif line.startswith("moceir serve"):
            code, _ = serve(line, environment, folder)
            done[shown.line] = code, "on a free port, with every curl that is shown"
        else:
            run = subprocess.run(
                ["bash", "-c", line],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
            code, note = run.returncode, "" if line == shown.line else f"as {line}"
            for pattern, right, why in EXPECTED:
                if re.search(pattern, line) and code == right:
                    code, note = 0, f"{note}; {why}"
            done[shown.line] = code, note
            if code:
                print(run.stdout[-1500:], run.stderr[-3000:], sep="\n")
        code, note = done[shown.line]
        status = "not run" if code is None else "ok" if code == 0 else f"FAILED, status {code}"
        seconds = time.monotonic() - begun
        print(
            f"{status:8s} {seconds:5.1f} s  {shown.page}: {shown.line}" + (f"\n    {note}" if note else ""), flush=True
        )
    failed = [line for line, (code, _) in done.items() if code]
    executed = sum(code is not None for code, _ in done.values())
    print(json.dumps({"shown": len(done), "executed": executed, "failed": failed}))
    shutil.rmtree(folder)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
