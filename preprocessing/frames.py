"""The decoded clip: what decoding hands to the face stages."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Frames:
    """The sampled frames of one clip and the facts of its source."""

    images: list[np.ndarray]
    """uint8 H,W,3 RGB, in display orientation, all of one size for a video."""
    index: list[int]
    """Position of each frame among the source's frames in presentation order, ascending."""
    timestamp_ms: list[float]
    """Presentation time relative to the first frame shown; NaN for frame folders, which have no clock."""
    width: int
    """Of the first frame, in pixels, in display orientation."""
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
