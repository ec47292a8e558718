"""The training step: it learns, its terms add up, it resumes exactly, it stops before a bad update."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.config import Recipe
from pipeline.losses import lambdas
from pipeline.models.output import ModelOutput
from pipeline.optim import NonFiniteError
from pipeline.step import Step
from preprocessing.config import validate


class Tiny(nn.Module):
    """Pooled colours to classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm1d(3)
        self.hidden = nn.Linear(3, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x_BCTHW: torch.Tensor) -> ModelOutput:
        features = self.hidden(self.norm(x_BCTHW.mean((2, 3, 4)))).tanh()
        return ModelOutput(self.head(features), features, extra_loss=self.head.weight.square().sum() * 0.01)


def recipe(**changes: Any) -> Recipe:
    tree: dict[str, Any] = {
        "preprocess": {"dataset": {"root": "x"}},
        "optim": {"epochs": 10, "lr": 0.02, "warmup_epochs": 1, "weight_decay": 0.0},
    }
    for path, value in changes.items():
        part, name = path.split("__")
        tree.setdefault(part, {})[name] = value
    return validate(Recipe, tree)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(8, 3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    label = torch.arange(8) % 2
    x[label == 1, 0] += 0.5
    return x, label


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sam": {"optim__sam_rho": 0.05},
    "dsm": {"loss__dsm": True},
    "all": {"loss__dsm": True, "optim__sam_rho": 0.05, "optim__clip_grad_norm": 1.0, "loss__class_weights": "balanced"},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_steps_learn_and_log_finite_scalars(changes: dict[str, Any]) -> None:
    step = Step(Tiny(), recipe(**changes), [4, 4], steps_per_epoch=3)
    x, label = batch()
    outputs = [step(x, label, done) for done in range(30)]
    assert outputs[-1].scalars["ce"] < 0.75 * outputs[0].scalars["ce"]
    assert (outputs[-1].logits.argmax(1) == label).float().mean() > 0.8
    assert all(torch.isfinite(v).all() and not v.requires_grad for v in outputs[-1].scalars.values())


def test_loss_is_the_weighted_sum_of_its_terms() -> None:
    step = Step(Tiny(), recipe(loss__dsm=True), [4, 4], steps_per_epoch=3)
    x, label = batch()
    first = step(x, label, 0).scalars
    extra = Tiny().head.weight.square().sum() * 0.01
    of_ce, of_dsm = lambdas(1.0)
    dsm = first["dsm_contrastive"] + 0.1 * first["dsm_variance"]
    assert first["loss"] == pytest.approx(float(of_ce * first["ce"] + of_dsm * dsm + extra), rel=1e-5)
    assert float(step(x, label, 1).scalars["lambda_ce"]) == pytest.approx(lambdas(float(first["grad_norm"]))[0])


def test_batchnorm_statistics_see_a_batch_once_with_sam() -> None:
    x, label = batch()
    model = Tiny()
    Step(model, recipe(optim__sam_rho=0.05), [4, 4], steps_per_epoch=3)(x, label, 0)
    assert model.norm.num_batches_tracked == 1


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_a_resumed_step_equals_an_uninterrupted_one(changes: dict[str, Any]) -> None:
    x, label = batch()

    def fresh() -> Step:
        return Step(Tiny(), recipe(**changes), [4, 4], steps_per_epoch=3)

    straight, first = fresh(), fresh()
    for done in range(6):
        straight(x, label, done)
    for done in range(3):
        first(x, label, done)
    saved = copy.deepcopy((first.module.state_dict(), first.state_dict()))
    second = fresh()
    second.module.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    for done in range(3, 6):
        second(x, label, done)
    for name, value in straight.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name]), name


@pytest.mark.parametrize("spoil", [lambda x: x.fill_(float("nan")), lambda x: x.fill_(float("inf"))])
def test_non_finite_input_stops_before_the_update(spoil: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = Tiny()
    before = copy.deepcopy(model.hidden.weight)
    x, label = batch()
    with pytest.raises(NonFiniteError, match=r"lower optim\.lr"):
        Step(model, recipe(), [4, 4], steps_per_epoch=3)(spoil(x), label, 0)
    assert torch.equal(model.hidden.weight, before)
