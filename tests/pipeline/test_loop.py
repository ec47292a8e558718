"""The epoch loop: counts are exact, the loss is the mean over clips, evaluation changes nothing."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from pipeline.batch import Batch
from pipeline.config import Recipe
from pipeline.loop import Means, evaluate_epoch, train_epoch
from pipeline.models.output import ModelOutput
from pipeline.step import Step
from preprocessing.config import validate

RECIPE = validate(
    Recipe,
    {
        "preprocess": {"dataset": {"root": "x"}},
        "data": {"image_px": 16, "frames": 2},
        "optim": {"lr": 0.05, "warmup_epochs": 0, "epochs": 12},
    },
)


class Colour(nn.Module):
    """Mean colour to classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 3)

    def forward(self, x_BCTHW: torch.Tensor) -> ModelOutput:
        features = x_BCTHW.mean((2, 3, 4))
        return ModelOutput(self.head(features), features)


def batches(sizes: tuple[int, ...] = (4, 4, 3)) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(5)
    for size in sizes:
        label = torch.randint(3, (size,), generator=generator)
        video = torch.zeros(size, 2, 18, 18, 3, dtype=torch.uint8)
        for row, k in enumerate(label.tolist()):
            video[row, ..., k] = 200
        yield Batch([str(i) for i in range(size)], video, label)


def test_training_learns_and_counts_every_clip() -> None:
    step = Step(Colour(), RECIPE, [4, 4, 3], steps_per_epoch=3)
    done, first = 0, None
    for epoch in range(12):
        generator = torch.Generator().manual_seed(epoch)
        scalars, counts, done = train_epoch(
            step, batches(), RECIPE, first_step=done, device=torch.device("cpu"), generator=generator
        )
        first = first or scalars["loss"]
    assert done == 36
    assert counts.sum() == 11
    assert scalars["loss"] < 0.8 * first
    counts, loss = evaluate_epoch(step.module, batches(), 3, torch.device("cpu"))
    assert counts.sum() == 11
    assert counts.trace() >= 10
    assert loss > 0


def test_evaluation_is_exact_and_leaves_the_model_alone() -> None:
    model = Colour()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    by_batches = evaluate_epoch(model, batches((4, 4, 3)), 3, torch.device("cpu"))
    again = evaluate_epoch(model, batches((4, 4, 3)), 3, torch.device("cpu"))
    assert torch.equal(by_batches[0], again[0])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    truth = torch.bincount(torch.cat([b.label_B for b in batches((4, 4, 3))]), minlength=3)
    assert by_batches[0].sum(1).tolist() == truth.tolist()


def test_means_weigh_by_clips() -> None:
    means = Means()
    means.add({"loss": torch.tensor(1.0)}, 3)
    means.add({"loss": torch.tensor(5.0)}, 1)
    assert means.result() == {"loss": pytest.approx(2.0)}


def test_empty_share_is_refused() -> None:
    step = Step(Colour(), RECIPE, [1, 1, 1], steps_per_epoch=1)
    with pytest.raises(ValueError, match="use fewer workers"):
        train_epoch(step, [], RECIPE, first_step=0, device=torch.device("cpu"), generator=torch.Generator())
