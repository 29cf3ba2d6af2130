"""Places pictures side by side for comparison."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np


def side_by_side(panels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Join pictures of one size, uint8 (H, W) or (H, W, 3), under captions into uint8 (H + 32, W · panels, 3)."""
    columns = []
    for caption, picture in panels.items():
        header = np.full((32, picture.shape[1], 3), 255, dtype=np.uint8)
        cv2.putText(header, caption, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
        columns.append(np.vstack([header, np.broadcast_to(np.atleast_3d(picture), (*picture.shape[:2], 3))]))
    return np.hstack(columns)
