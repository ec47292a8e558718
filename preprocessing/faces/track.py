"""Faces over time: link the detections of sampled frames, keep one face, bridge its gaps, smooth it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from preprocessing.faces.detection import Detection

MAX_SHIFT = 1.0
"""A face moves at most so many times its own size between two sampled frames (these can be 0.3 s apart)."""
MAX_GROWTH = 2.0
"""Its side grows or shrinks at most by this factor."""


@dataclass
class Track:
    """One face: its detection per frame number, in rising order."""

    detections: dict[int, Detection] = field(default_factory=dict)

    @property
    def last(self) -> Detection:
        """The latest detection."""
        return self.detections[max(self.detections)]

    @property
    def mean_area(self) -> float:
        """Mean box area in square pixels."""
        return float(np.mean([d.area for d in self.detections.values()]))


def link(frames: Sequence[Sequence[Detection]]) -> list[Track]:
    """Join the detections of successive frames into tracks; best pairs first, each detection once.

    A track outlives frames without its face: one that comes back near its old place continues it.
    """
    tracks: list[Track] = []
    for number, detections in enumerate(frames):
        pairs = sorted(
            ((value, t, d) for t, track in enumerate(tracks) for d, found in enumerate(detections)
             if (value := affinity(track.last, found)) is not None),
            reverse=True,
        )  # fmt: skip
        used_tracks: set[int] = set()
        used_detections: set[int] = set()
        for _, t, d in pairs:
            if t not in used_tracks and d not in used_detections:
                tracks[t].detections[number] = detections[d]
                used_tracks.add(t)
                used_detections.add(d)
        tracks += [Track({number: found}) for d, found in enumerate(detections) if d not in used_detections]
    return tracks


def affinity(a: Detection, b: Detection) -> float | None:
    """How well b continues a: overlap (IoU) less centre distance over size; None = it cannot."""
    overlap = np.minimum(a.box[2:], b.box[2:]) - np.maximum(a.box[:2], b.box[:2])
    shared = float(np.prod(np.maximum(overlap, 0)))
    sides = np.sqrt([max(a.area, 1e-9), max(b.area, 1e-9)])
    shift = float(np.linalg.norm(a.centre - b.centre) / sides.mean())
    if shift > MAX_SHIFT or sides.max() / sides.min() > MAX_GROWTH:
        return None
    return shared / (a.area + b.area - shared) - shift


def pick(
    tracks: Sequence[Track], rule: Literal["largest", "longest", "central"], width: int, height: int
) -> Track | None:
    """The one face that a clip keeps; None when there is none.

    `largest`: greatest mean area. `longest`: most frames, then largest. `central`: mean distance to the
    image's centre least, then longest.
    """
    middle = np.array([width, height]) / 2

    def rank(track: Track) -> tuple[float, ...]:
        length = len(track.detections)
        if rule == "largest":
            return track.mean_area, length
        if rule == "longest":
            return length, track.mean_area
        distances = [np.linalg.norm(d.centre - middle) for d in track.detections.values()]
        return -float(np.mean(distances)), length

    return max(tracks, key=rank, default=None)


def bridge_gaps(
    landmarks: Sequence[np.ndarray | None], timestamp_ms: Sequence[float], max_gap_frames: int
) -> list[np.ndarray | None]:
    """Interpolate landmarks in time where at most `max_gap_frames` frames between two found ones lack them."""
    filled = list(landmarks)
    known = [i for i, points in enumerate(landmarks) if points is not None]
    for left, right in itertools.pairwise(known):
        if not 1 < right - left <= max_gap_frames + 1:
            continue
        span = timestamp_ms[right] - timestamp_ms[left]
        for i in range(left + 1, right):
            weight = (timestamp_ms[i] - timestamp_ms[left]) / span if span > 0 else 0.5
            filled[i] = (1 - weight) * landmarks[left] + weight * landmarks[right]
    return filled


def borrow_nearest(landmarks: Sequence[np.ndarray | None], timestamp_ms: Sequence[float]) -> list[np.ndarray | None]:
    """Give each frame without landmarks those of the frame nearest in time that has some."""
    known = [i for i, points in enumerate(landmarks) if points is not None]
    if not known:
        return list(landmarks)
    times = np.asarray(timestamp_ms, np.float64)
    return [
        points if points is not None else landmarks[min(known, key=lambda k: abs(times[k] - times[i]))]
        for i, points in enumerate(landmarks)
    ]


def smooth(landmarks: Sequence[np.ndarray | None], strength: float) -> list[np.ndarray | None]:
    """Average landmarks over frames with weights strength ** |distance in frames|: no lag, 0 = unchanged."""
    known = [i for i, points in enumerate(landmarks) if points is not None]
    if not known or strength == 0:
        return list(landmarks)
    numbers = np.array(known)
    weights = strength ** np.abs(numbers[:, None] - numbers[None])
    weights /= weights.sum(1, keepdims=True)
    stacked = np.stack([landmarks[i] for i in known])
    averaged = np.einsum("ij,jpx->ipx", weights, stacked)
    smoothed: list[np.ndarray | None] = list(landmarks)
    for i, points in zip(known, averaged, strict=True):
        smoothed[i] = points
    return smoothed
