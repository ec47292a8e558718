"""One detected face: what every detector yields and what tracking and alignment read."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Detection:
    """A face in one image; coordinates are pixels of that image, and may lie outside it."""

    box: np.ndarray
    """float64 (4,): x0, y0, x1, y1."""
    score: float
    """Confidence in 0..1."""
    landmarks: np.ndarray
    """float64 (5, 2) as x, y: the image's left eye, right eye, nose tip, left and right mouth corner."""

    @property
    def centre(self) -> np.ndarray:
        """float64 (2,): the middle of the box."""
        return (self.box[:2] + self.box[2:]) / 2

    @property
    def area(self) -> float:
        """Box area in square pixels."""
        width, height = np.maximum(self.box[2:] - self.box[:2], 0)
        return float(width * height)
