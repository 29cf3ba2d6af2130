"""Restores a photograph with ONNX Runtime; needs only numpy, onnxruntime, and Pillow.

moceir export onnx -o model.onnx
python examples/onnx_restore.py model.onnx noisy.png restored.png
"""

from __future__ import annotations

import argparse

import numpy as np
import onnxruntime
from PIL import Image


def main() -> None:
    """Read, restore, and write."""
    parser = argparse.ArgumentParser(description="Restore a photograph with ONNX Runtime.")
    parser.add_argument("model", help="file that moceir export onnx wrote")
    parser.add_argument("photograph")
    parser.add_argument("restored", help="the suffix determines the format")
    parser.add_argument("--threads", type=int, default=0, help="number of threads; 0: one per core")
    arguments = parser.parse_args()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    session = onnxruntime.InferenceSession(arguments.model, options, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    print(f"{metadata['name']}, moceir {metadata['version']}, route {metadata['route']}")

    pixels = np.asarray(Image.open(arguments.photograph).convert("RGB"), dtype=np.float32) / 255
    image = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # (1, 3, H, W), RGB in [0, 1]
    (restored,) = session.run(["restored"], {"image": image})
    levels = (restored[0].transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(levels).save(arguments.restored)


if __name__ == "__main__":
    main()
