"""One optimizer step on plain tensors: forward, loss, backward, checks, update.

Shapes: B clips of this rank, K classes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import Recipe
from pipeline.losses import balanced_weights, cross_entropy, dsm_loss, gather, global_mean, lambdas
from pipeline.models.output import ModelOutput
from pipeline.optim import SAM, adamw, assert_finite, clip_grads, frozen_batchnorm, grad_norm, lr_at, set_lr


@dataclass(frozen=True)
class StepOutput:
    """Logits (B, K) of the first pass and scalars to log (detached: loss, its terms, gradient norm, lr)."""

    logits: Tensor
    scalars: dict[str, Tensor]


class Step:
    """A model with its optimizer and losses; call it with a batch to train on it once.

    Args:
        model: the module, or DistributedDataParallel around it; on its device already.
        recipe: its `loss`, `optim` and `model` parts are used.
        train_counts: training clips per class, for balanced class weights.
        steps_per_epoch: for the learning-rate schedule.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, train_counts: list[int], steps_per_epoch: int) -> None:
        self.model, self.recipe, self.steps_per_epoch = model, recipe, steps_per_epoch
        self.module = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        optim = recipe.optim
        self.optimizer = adamw(self.module, lr=optim.lr, weight_decay=optim.weight_decay)
        self.sam = SAM(self.optimizer, optim.sam_rho) if optim.sam_rho else None
        balanced = recipe.loss.class_weights == "balanced"
        self.class_weights = balanced_weights(train_counts) if balanced else None
        self.g = 1.0
        """Global gradient norm of the previous step: scales DSM against cross entropy."""

    def __call__(self, x_BCTHW: Tensor, label_B: Tensor, done: int) -> StepOutput:
        """Update the model once.

        Args:
            x_BCTHW: float in [0, 1].
            label_B: int64 class indices.
            done: optimizer steps made before this one.

        Raises:
            NonFiniteError: before the update, on every rank.
        """
        lr = self._schedule(done)
        logits, scalars, norm = self._backward(x_BCTHW, label_B)
        if self.sam is not None:
            self.sam.first_step()
            with frozen_batchnorm(self.module):
                _, _, second = self._backward(x_BCTHW, label_B)
            self._clip(second)
            self.sam.second_step()
        else:
            self._clip(norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.g = float(norm)
        return StepOutput(logits, scalars | {"grad_norm": norm, "lr": norm.new_tensor(lr)})

    def state_dict(self) -> dict[str, Any]:
        """Optimizer state and g: tensors and plain values only."""
        return {"optimizer": self.optimizer.state_dict(), "g": self.g}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.g = state["g"]

    def _schedule(self, done: int) -> float:
        optim = self.recipe.optim
        warmup = round(optim.warmup_epochs * self.steps_per_epoch)
        steps = optim.epochs * self.steps_per_epoch
        lr = lr_at(done, steps=steps, warmup_steps=warmup, lr=optim.lr, min_lr=optim.min_lr)
        set_lr(self.optimizer, lr)
        return lr

    def _backward(self, x_BCTHW: Tensor, label_B: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        with torch.autocast(x_BCTHW.device.type, torch.bfloat16, enabled=self.recipe.optim.amp == "bf16"):
            output: ModelOutput = self.model(x_BCTHW)
        loss, scalars = self._loss(output, label_B)
        loss.backward()
        norm = grad_norm(self.module.parameters())
        assert_finite(loss, norm)
        return output.logits.detach(), scalars | {"loss": loss.detach()} | output.stats, norm

    def _loss(self, output: ModelOutput, label_B: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        settings = self.recipe.loss
        total, count = cross_entropy(
            output.logits, label_B, smoothing=settings.label_smoothing, class_weights_K=self.class_weights
        )
        loss = ce = global_mean(total, count)
        scalars = {"ce": ce.detach()}
        if settings.dsm:
            variant = getattr(self.recipe.model, "variant", "paper")
            dsm = dsm_loss(
                *gather(output.features, label_B),
                tau=settings.dsm_tau,
                eta=settings.dsm_eta,
                # The release has a coefficient of its own.
                beta_ib=settings.dsm_beta_ib if variant == "paper" else None,
                variant=variant,
            )
            of_ce, of_dsm = lambdas(self.g, settings.dsm_alpha, settings.dsm_beta, variant=variant)
            loss = of_ce * ce + of_dsm * dsm.loss
            scalars |= {"dsm_contrastive": dsm.contrastive, "dsm_variance": dsm.variance}
            scalars |= {"lambda_ce": ce.new_tensor(of_ce), "lambda_dsm": ce.new_tensor(of_dsm)}
        if output.extra_loss is not None:
            loss = loss + output.extra_loss
        return loss, scalars

    def _clip(self, norm: Tensor) -> None:
        limit = self.recipe.optim.clip_grad_norm
        if limit is not None:
            clip_grads(self.module.parameters(), limit, norm)
