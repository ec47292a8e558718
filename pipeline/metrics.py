"""Confusion counts and the scores derived from them.

Counts travel between batches and ranks as one integer matrix; scores are derived once, at the end,
so they do not depend on batch size or on the number of workers.
Shape suffixes: B batch, K classes.
"""

from collections.abc import Sequence
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


def confusion(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Count one batch: int64 (K, K) on the device of the logits; rows = truth, columns = prediction.

    The class with the greatest logit (ties: the first) is predicted; probabilities do as well. Rows labelled -1
    are ignored, whatever their logits are. Counts of batches and ranks are added with `+`.

    Raises:
        ValueError: shapes that do not agree, a label outside -1 .. K-1 or not an integer, or a logit that is not
            finite where it counts.
    """
    if logits_BK.ndim != 2 or labels_B.shape != logits_BK.shape[:1] or labels_B.is_floating_point():
        raise ValueError(
            f"logits {tuple(logits_BK.shape)} and {labels_B.dtype} labels {tuple(labels_B.shape)}: "
            "need (B, K) and (B,) integers"
        )
    classes = logits_BK.shape[1]
    counted = labels_B.to(logits_BK.device) != IGNORED
    logits_BK, labels_B = logits_BK[counted], labels_B.to(logits_BK.device)[counted].long()
    outside = labels_B[(labels_B < 0) | (labels_B >= classes)]
    if outside.numel():
        raise ValueError(f"label {int(outside[0])} is outside {IGNORED} .. {classes - 1}")
    if not logits_BK.isfinite().all():
        raise ValueError("logits are not finite: a diverged model has no prediction to count")
    cells = torch.bincount(labels_B * classes + logits_BK.argmax(dim=1), minlength=classes * classes)
    return cells.reshape(classes, classes)


def _check_counts(matrix: np.ndarray) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype.kind not in "iu":
        raise ValueError(f"a confusion matrix is integer (K, K), got {matrix.dtype} {matrix.shape}")
    if (matrix < 0).any():
        raise ValueError(f"a confusion matrix holds counts, got {matrix.min()}")
