"""Encoded crops to batches, without Ray: frames of a clip, decoding, one worker's epochs.

Shapes: B clips, T frames, H x W pixels, 3 channels (RGB).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch

from pipeline.config import DataSettings


class Share(Protocol):
    """One worker's rows: what ray.data.DataIterator offers, as far as it is used here."""

    def iter_batches(self, *, batch_size: int, batch_format: str, **options: Any) -> Iterator[dict[str, np.ndarray]]:
        """Batches of columns sample_id, label and video (uint8 B,T,H,W,3)."""
        ...


def segment_positions(stored: int, wanted: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Positions of `wanted` frames out of `stored`, rising: one from each of `wanted` equal segments.

    The segment's centre without a generator (evaluation), a random place in it with one (training). A clip with
    fewer frames than wanted repeats neighbours.
    """
    edges = np.linspace(0, stored, wanted + 1)
    offsets = rng.random(wanted) if rng is not None else np.full(wanted, 0.5)
    positions = edges[:-1] + offsets * (edges[1:] - edges[:-1])
    return np.minimum(positions.astype(np.int64), stored - 1)


def decode_crops(crops: list[bytes], side_px: int) -> np.ndarray:
    """JPEG crops to uint8 T,side_px,side_px,3 RGB.

    Raises:
        ValueError: a crop that is no picture.
    """
    clip = np.empty((len(crops), side_px, side_px, 3), np.uint8)
    for t, data in enumerate(crops):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"crop {t} of {len(crops)} is no readable JPEG ({len(data)} bytes): verify the shard set")
        if image.shape[:2] != (side_px, side_px):
            shrinks = image.shape[0] > side_px
            image = cv2.resize(image, (side_px, side_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=clip[t])
    return clip


@dataclass(frozen=True)
class Batch:
    """One batch: sample ids, uint8 B,T,H,W,3 clips and int64 B labels (class indices)."""

    sample_id: list[str]
    video_BTHWC: torch.Tensor
    label_B: torch.Tensor


class ClipBatches:
    """One worker's share of a data set as batches, epoch after epoch.

    Args:
        share: the worker's rows, e.g. a Ray Data iterator.
        classes: label names in index order.
        cached: keep the decoded share in memory; its order is then a function of seed and epoch alone.
        shuffle: training: shuffled order, frames drawn at random from those that the share holds, no short last batch.
    """

    def __init__(
        self,
        share: Share,
        classes: list[str],
        settings: DataSettings,
        *,
        cached: bool,
        shuffle: bool,
        seed: int,
    ) -> None:
        self.share, self.settings, self.cached = share, settings, cached
        self.shuffle, self.seed = shuffle, seed
        self._class_of = {name: k for k, name in enumerate(classes)}
        self._rows: dict[str, np.ndarray] | None = None

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Batches of one epoch; training drops an incomplete last batch unless it is the only one."""
        rows = self._load() if self.cached else None
        rng = np.random.default_rng((self.seed, epoch))
        if rows is None:
            pieces = self.share.iter_batches(
                batch_size=self.settings.batch_size, batch_format="numpy", prefetch_batches=2
            )
        else:
            n, size = len(rows["label"]), self.settings.batch_size
            order = rng.permutation(n) if self.shuffle else np.arange(n)
            pieces = ({k: v[order[i : i + size]] for k, v in rows.items()} for i in range(0, n, size))
        yield from self._complete(self._batch(piece, rng) for piece in pieces)

    def _load(self) -> dict[str, np.ndarray]:
        if self._rows is None:
            pieces = list(self.share.iter_batches(batch_size=64, batch_format="numpy"))
            keys = ("sample_id", "label", "video")
            rows = {k: np.concatenate([p[k] for p in pieces]) if pieces else np.empty(0, object) for k in keys}
            order = np.argsort(rows["sample_id"].astype(str))
            self._rows = {k: v[order] for k, v in rows.items()}
        return self._rows

    def _complete(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for k, batch in enumerate(batches):
            if self.shuffle and k and len(batch.sample_id) < self.settings.batch_size:
                return
            yield batch

    def _batch(self, rows: dict[str, np.ndarray], rng: np.random.Generator) -> Batch:
        video = rows["video"]
        if video.shape[1] != self.settings.frames:
            draw = rng if self.shuffle else None
            picks = [segment_positions(video.shape[1], self.settings.frames, draw) for _ in video]
            video = np.stack([clip[pick] for clip, pick in zip(video, picks, strict=True)])
        labels = torch.tensor([self._class_of[name] for name in rows["label"]], dtype=torch.int64)
        return Batch([str(i) for i in rows["sample_id"]], torch.from_numpy(np.ascontiguousarray(video)), labels)


def steps_per_epoch(rows: int, workers: int, batch_size: int) -> int:
    """Optimizer steps per epoch of each worker, as `ClipBatches` yields them (at least 1)."""
    return max(1, rows // workers // batch_size)
