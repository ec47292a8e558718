"""Which frames of a clip are kept: even steps in presentation time, whatever the frame rate does."""

import re
from collections.abc import Sequence

import numpy as np

_LAST_NUMBER = re.compile(r"(\d+)\D*$")


def choose(times: Sequence[float], frames: int, end: float | None = None) -> list[int]:
    """Positions of the frames that are on screen at the centres of `frames` equal segments of the clip.

    `times` are the presentation times in ascending order, in any unit; `end` is when the last frame leaves the
    screen (default: after the mean interval). A clip with no more than `frames` frames keeps all of them, once
    each. A longer clip gives `frames` different positions: where one frame is on screen at several centres (a
    long still in a variable frame rate), its neighbours on both sides are taken too.

    Raises:
        ValueError: `frames` is below 1, or the times are not in ascending order.
    """
    clock = np.asarray(times, dtype=np.float64)
    if frames < 1:
        raise ValueError(f"frames = {frames}: must be at least 1")
    if np.any(np.diff(clock) < 0):
        raise ValueError("presentation times are not in ascending order")
    if len(clock) <= frames:
        return list(range(len(clock)))
    if end is None or end <= clock[-1]:
        end = clock[-1] + (clock[-1] - clock[0]) / (len(clock) - 1)
    centres = clock[0] + (np.arange(frames) + 0.5) * (end - clock[0]) / frames
    shown = np.searchsorted(clock, centres, side="right") - 1
    return _distinct(shown, len(clock)).tolist()


def frame_number(name: str) -> int | None:
    """Number of a frame file: the last run of digits of its stem (`00001_00042.jpg` -> 42), or null."""
    match = _LAST_NUMBER.search(name.rpartition(".")[0] or name)
    return int(match[1]) if match else None


def _distinct(positions: np.ndarray, count: int) -> np.ndarray:
    """Make ascending positions strictly ascending in 0..count-1, moving repeated ones to both sides alike.

    A sequence is strictly ascending exactly when position minus rank never falls; the mean of the running
    maximum from the left and the running minimum from the right is the nearest such sequence.
    """
    rank = np.arange(len(positions))
    slack = positions - rank
    from_left = np.maximum.accumulate(slack)
    from_right = np.minimum.accumulate(slack[::-1])[::-1]
    return np.clip((from_left + from_right) // 2, 0, count - len(positions)) + rank
