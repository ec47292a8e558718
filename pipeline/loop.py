"""The epoch loop on plain tensors: no Ray, no MLflow.

Shapes: B clips, K classes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.augment import augment, to_float
from pipeline.batch import Batch
from pipeline.config import Recipe
from pipeline.metrics import confusion
from pipeline.step import Step


@dataclass
class Means:
    """Running means of logged scalars, weighted by clips; kept on the device until the epoch ends."""

    total: dict[str, Tensor] = field(default_factory=dict)
    weight: int = 0

    def add(self, values: dict[str, Tensor], clips: int) -> None:
        """Add one batch's scalars."""
        for name, value in values.items():
            scaled = value.detach().float() * clips
            self.total[name] = self.total[name] + scaled if name in self.total else scaled
        self.weight += clips

    def result(self) -> dict[str, float]:
        """Name to mean; empty when nothing was added."""
        return {name: float(value) / self.weight for name, value in self.total.items()}


def train_epoch(
    step: Step,
    batches: Iterable[Batch],
    recipe: Recipe,
    *,
    first_step: int,
    device: torch.device,
    generator: torch.Generator,
    on_step: Callable[[int], Any] | None = None,
) -> tuple[dict[str, float], Tensor, int]:
    """Train on every batch once.

    Args:
        first_step: optimizer steps done before this epoch.
        generator: draws of the augmentation.

    Returns:
        Mean scalars of the epoch, int64 K,K confusion counts of the augmented batches, steps done in all.

    Raises:
        pipeline.optim.NonFiniteError: before the update that would have used a non-finite loss or gradient.
    """
    step.model.train()
    means, counts, done = Means(), None, first_step
    for batch in batches:
        x_BCTHW = to_float(batch.video_BTHWC.to(device, non_blocking=True))
        x_BCTHW = augment(x_BCTHW, recipe.data.augment, recipe.data.image_px, generator)
        label_B = batch.label_B.to(device, non_blocking=True)
        output = step(x_BCTHW, label_B, done)
        seen = confusion(output.logits.detach(), label_B)
        counts = seen if counts is None else counts + seen
        means.add(output.scalars, len(label_B))
        done += 1
        if on_step is not None:
            on_step(done)
    if counts is None:
        raise ValueError("the training share of this worker is empty: use fewer workers or more data")
    return means.result(), counts, done


@torch.inference_mode()
def evaluate_epoch(
    model: nn.Module, batches: Iterable[Batch], classes: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Classify every batch once; int64 K,K confusion counts and the summed cross entropy (float64 scalar)."""
    model.eval()
    counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for batch in batches:
        logits_BK = model(to_float(batch.video_BTHWC.to(device))).logits.float()
        label_B = batch.label_B.to(device)
        counts += confusion(logits_BK, label_B)
        loss += nn.functional.cross_entropy(logits_BK, label_B, reduction="sum")
    return counts, loss
