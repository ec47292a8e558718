"""Small media with a real face: the public-domain portrait of scikit-image, a little different for each seed."""

from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
from make_media import write_video
from PIL import Image
from skimage import data

SIDE_PX = 160


def face_picture(seed: int = 0, step: int = 0, side_px: int = SIDE_PX) -> np.ndarray:
    """uint8 side,side,3: the portrait's head, moved by `step`, lit by `seed`."""
    left, top = 95 + 3 * step, 15 + seed % 5
    head = data.astronaut()[top : top + 250, left : left + 250]
    lit = np.clip(head * (0.7 + 0.05 * (seed % 9)), 0, 255).astype(np.uint8)
    return cv2.resize(lit, (side_px, side_px), interpolation=cv2.INTER_AREA)


def face_video(
    path: Path, frames: int = 6, *, seed: int = 0, absent: Collection[int] = (), side_px: int = SIDE_PX
) -> Path:
    """A clip of the face at 10 frames a second; in the frames of `absent` only a grey wall."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wall = np.full((side_px, side_px, 3), 120, np.uint8)
    pictures = [wall if i in absent else face_picture(seed, i, side_px) for i in range(frames)]
    return write_video(path, fps=10, pictures=pictures)


def face_image(path: Path, seed: int = 0) -> Path:
    """One JPEG of the face."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(face_picture(seed)).save(path, quality=95)
    return path


def face_tree(root: Path, clips: int, *, frames: int = 6, labels: tuple[str, ...] = ("happy", "sad")) -> Path:
    """A folder tree <root>/<label>/<number>.mp4 with so many clips in all."""
    for i in range(clips):
        face_video(root / labels[i % len(labels)] / f"{i:03d}.mp4", frames, seed=i)
    return root
