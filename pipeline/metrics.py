"""Confusion counts and the scores derived from them.

Counts travel between batches and ranks as one integer matrix; scores are derived once, at the end,
so they do not depend on batch size or on the number of workers.
Shape suffixes: B batch, K classes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

IGNORED = -1
"""Label of a row that is padding or has no label: it is not counted."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one evaluation, in [0, 1], with the counts that they come from."""

    uar: float
    """Unweighted average recall: mean recall over the classes that have samples."""
    war: float
    """Weighted average recall: share of correct samples (accuracy)."""
    classes: tuple[str, ...]
    recall: tuple[float | None, ...]
    """Per class; None where the class has no samples."""
    support: tuple[int, ...]
    """Samples per class."""
    empty: tuple[str, ...]
    """Classes without samples: left out of `uar`, listed here so that nobody overlooks it."""
    samples: int
    confusion: tuple[tuple[int, ...], ...]
    """Rows = truth, columns = prediction."""

    @classmethod
    def from_counts(cls, counts: Tensor | np.ndarray, classes: Sequence[str]) -> "Scores":
        """Derive UAR, WAR and per-class recall from a confusion matrix of counts.

        Raises:
            ValueError: the matrix is not an integer (K, K) for these K classes, or holds no sample.
        """
        matrix = counts.cpu().numpy() if isinstance(counts, Tensor) else np.asarray(counts)
        _check_counts(matrix)
        if len(matrix) != len(classes):
            raise ValueError(f"confusion matrix of {len(matrix)} classes, but {len(classes)} class names")
        support, correct = matrix.sum(axis=1).tolist(), matrix.diagonal().tolist()
        if not sum(support):
            raise ValueError("no labelled sample was evaluated: there is nothing to score")
        recall = [c / n if n else None for c, n in zip(correct, support, strict=True)]
        return cls(
            uar=float(np.mean([value for value in recall if value is not None])),
            war=sum(correct) / sum(support),
            classes=tuple(classes),
            recall=tuple(recall),
            support=tuple(support),
            empty=tuple(name for name, n in zip(classes, support, strict=True) if not n),
            samples=sum(support),
            confusion=tuple(tuple(row) for row in matrix.tolist()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, ready for JSON."""
        return asdict(self)

    def to_metrics(self, prefix: str) -> dict[str, float]:
        """Scalars to track: `<prefix>/uar`, `<prefix>/war` and `<prefix>/recall_<class>`."""
        recalls = zip(self.classes, self.recall, strict=True)
        by_class = {f"{prefix}/recall_{name}": value for name, value in recalls if value is not None}
        return {f"{prefix}/uar": self.uar, f"{prefix}/war": self.war} | by_class


def confusion_counts(labels_B: Tensor | np.ndarray, predicted_B: Tensor | np.ndarray, classes: int) -> Tensor:
    """Count predictions: int64 (K, K) on the device of the labels; rows = truth, columns = prediction.

    Rows labelled -1 are ignored, whatever was predicted. No row at all gives a matrix of zeros.

    Raises:
        ValueError: not two integer vectors of one length, or a class index outside 0 .. K-1.
    """
    labels_B, predicted_B = torch.as_tensor(labels_B), torch.as_tensor(predicted_B)
    for name, vector in (("labels", labels_B), ("predictions", predicted_B)):
        if vector.ndim != 1 or vector.is_floating_point() or len(vector) != len(labels_B):
            raise ValueError(
                f"{name} are {vector.dtype} {tuple(vector.shape)}: need integers, one per label ({len(labels_B)})"
            )
    counted = labels_B != IGNORED
    labels_B, predicted_B = labels_B[counted].long(), predicted_B.to(labels_B.device)[counted].long()
    for name, vector in (("label", labels_B), ("prediction", predicted_B)):
        outside = vector[(vector < 0) | (vector >= classes)]
        if outside.numel():
            raise ValueError(f"{name} {int(outside[0])} is outside 0 .. {classes - 1}")
    cells = torch.bincount(labels_B * classes + predicted_B, minlength=classes * classes)
    return cells.reshape(classes, classes)


def confusion(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Count one batch of logits, the class with the greatest logit (ties: the first) being predicted.

    Raises:
        ValueError: as `confusion_counts`, or logits that are not (B, K) or not finite where counted.
    """
    if logits_BK.ndim != 2 or labels_B.shape != logits_BK.shape[:1]:
        raise ValueError(f"logits {tuple(logits_BK.shape)} and labels {tuple(labels_B.shape)}: need (B, K) and (B,)")
    if not logits_BK[labels_B != IGNORED].isfinite().all():
        raise ValueError("logits are not finite: a diverged model has no prediction to count")
    return confusion_counts(labels_B, logits_BK.argmax(dim=1), logits_BK.shape[1])


def merge(counts: Iterable[Tensor]) -> Tensor:
    """Add the confusion matrices of batches or ranks: int64 (K, K) on the CPU.

    Raises:
        ValueError: there is none, one is not an integer (K, K) matrix, or the sizes differ.
    """
    matrices = [count.cpu() for count in counts]
    if not matrices:
        raise ValueError("no confusion matrix to add")
    for matrix in matrices:
        _check_counts(matrix.numpy())
    sizes = sorted({len(matrix) for matrix in matrices})
    if len(sizes) > 1:
        raise ValueError(f"confusion matrices of {sizes} classes cannot be added")
    return torch.stack([matrix.to(torch.int64) for matrix in matrices]).sum(dim=0)


def _check_counts(matrix: np.ndarray) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype.kind not in "iu":
        raise ValueError(f"a confusion matrix is integer (K, K), got {matrix.dtype} {matrix.shape}")
    if (matrix < 0).any():
        raise ValueError(f"a confusion matrix holds counts, got {matrix.min()}")
