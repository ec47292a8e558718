"""Video, frame folder or picture -> the sampled RGB frames with their presentation times."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preprocessing.config import DecodeSettings


@dataclass
class Frames:
    """The sampled frames of one clip and the facts of its source."""

    images: list[np.ndarray]
    """uint8 H,W,3 RGB, in display orientation."""
    index: list[int]
    """Position of each frame among the source's frames in presentation order, ascending."""
    timestamp_ms: list[float]
    """Presentation time relative to the first frame shown."""
    width: int
    """Of the frames, in pixels, in display orientation."""
    height: int
    fps: float | None
    """Average rate; null for pictures and frame folders."""
    frame_count: int
    """Frames of the source that can be shown."""
    codec: str
    decoder: str
    decoder_version: str
    salvaged: bool = False
    """The source is damaged: these frames come from the part that still decodes."""


def decode(media: str, uris: Sequence[str], frames: int, settings: DecodeSettings) -> Frames:
    """Decode `frames` frames, evenly spaced in presentation time, of a video, frame folder or image.

    Raises:
        ClipError: the media cannot be used; its kind says why.
    """
    raise NotImplementedError
