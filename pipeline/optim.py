"""AdamW with parameter groups, the learning-rate schedule, SAM, and the checks before an update."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.collectives import true_on_every_rank

TINY = 1e-12


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite on some rank; no update was made with it."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups, with and without weight decay; empty groups are left out.

    Without decay: tensors with at most one axis (biases, norms, gates) and those that a module names in its
    `no_weight_decay()` (timm's convention: names relative to the module).

    Raises:
        ValueError: nothing requires a gradient.
    """
    kept = _exempt_names(model)
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient")
    exempt = [p for name, p in trainable if p.dim() <= 1 or name in kept]
    decayed = [p for name, p in trainable if p.dim() > 1 and name not in kept]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": exempt, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of a model.

    Raises:
        ValueError: nothing requires a gradient.
    """
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=lr)


def lr_at(step: int, *, steps: int, warmup_steps: int, lr: float, min_lr: float) -> float:
    """Learning rate of an optimizer step: linear warm-up to `lr`, then a cosine to `min_lr` at the last step.

    Args:
        step: 0 for the first update; steps past the end keep `min_lr`.
        steps: updates in all.
        warmup_steps: updates before `lr` is reached.
    """
    if step < warmup_steps:
        return lr * (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def grad_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Euclidean norm over the gradients of all parameters (scalar, 0 without any); None gradients are skipped."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def clip_grads(parameters: Iterable[Tensor], max_norm: float, norm: Tensor) -> None:
    """Scale gradients in place so that their global norm, known already, is at most `max_norm`."""
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)


def assert_finite(loss: Tensor, norm: Tensor) -> None:
    """Stop all ranks together when the loss or the gradient norm of one of them is NaN or infinite.

    Raises:
        NonFiniteError: on every rank, also where the own values are finite.
    """
    if not true_on_every_rank((loss.isfinite() & norm.isfinite()).all()):
        raise NonFiniteError(
            f"non-finite loss or gradient before the update: loss {float(loss):g}, gradient norm {float(norm):g} "
            "on this rank; lower optim.lr, set optim.clip_grad_norm, or set optim.amp to off"
        )


@contextmanager
def frozen_batchnorm(model: nn.Module) -> Iterator[None]:
    """Leave the running statistics of BatchNorm layers alone; training mode still normalises by the batch.

    For SAM's second pass, whose perturbed weights the statistics must not see.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracking = [layer.track_running_stats for layer in layers]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer, tracked in zip(layers, tracking, strict=True):
            layer.track_running_stats = tracked


class SAM:
    """Sharpness-aware minimisation around an optimizer (Foret et al., ICLR 2021; not adaptive).

    One update: backward, `first_step()`, forward and backward again within `frozen_batchnorm`, `second_step()`.
    Ranks stay identical as long as both gradients are the same on all of them (DistributedDataParallel's are).

    Args:
        optimizer: makes the update; its parameters are the ones perturbed.
        rho: length of the ascent step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, rho: float) -> None:
        if not 0 < rho < math.inf:
            raise ValueError(f"rho = {rho} must be positive and finite")
        self.optimizer, self.rho = optimizer, rho
        self.g = 1.0
        """Global gradient norm of the last first step; 1 before any."""
        self._originals: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def first_step(self) -> float:
        """Move parameters by rho along the gradient and clear the gradients; returns its global norm g.

        Raises:
            NonFiniteError: the norm is NaN or infinite; parameters are then as before.
            RuntimeError: the previous update was not finished.
        """
        if self._originals:
            raise RuntimeError("first_step() called twice: finish with second_step() or restore()")
        moved = [p for p in self._parameters() if p.grad is not None]
        norm = grad_norm(moved)
        if not norm.isfinite():
            raise NonFiniteError(f"gradient norm {float(norm)} in the first pass of SAM: lower optim.lr")
        self._originals = [(p, p.detach().clone()) for p in moved]
        scale = self.rho / (norm + TINY)
        for p in moved:
            p.add_(p.grad * scale.to(p.grad))
        self.optimizer.zero_grad()
        self.g = float(norm)
        return self.g

    def second_step(self) -> None:
        """Restore the parameters, update them with the gradients at the perturbed ones, clear the gradients."""
        self.restore()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Undo the perturbation, bit for bit; does nothing when there is none."""
        for p, original in self._originals:
            p.copy_(original)
        self._originals = []

    def state_dict(self) -> dict[str, Any]:
        """State of the optimizer and g, of tensors and plain values only.

        Raises:
            RuntimeError: between the two steps, when the parameters are perturbed.
        """
        if self._originals:
            raise RuntimeError("the parameters are perturbed: save after second_step() or restore()")
        return {"optimizer": self.optimizer.state_dict(), "g": self.g}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`; rho stays the one of the constructor."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.g = state["g"]

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.optimizer.param_groups:
            yield from (p for p in group["params"] if p.requires_grad)


def _exempt_names(model: nn.Module) -> set[str]:
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if callable(getattr(module, "no_weight_decay", None))
        for name in module.no_weight_decay()
    }
