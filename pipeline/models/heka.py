"""HeKA: parallel Kronecker adapters of several scales on a frozen linear layer.

Reconstructed from the abstract of HKAFER (AAAI 2026): equations and hyper-parameters are not public.
Shapes: B samples, T rows (samples x tokens), K stacked blocks of outputs (3 for a fused qkv), m x n weight of
one block, N adapters; adapter i has p_i, q_i and rank r; R = sum_i p_i r.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Factors(NamedTuple):
    """One adapter: dW = gain * left (x) (up @ down), in each of K blocks.

    left: (K, p, q); up: (K, m/p, r); down: (K, r, n/q); gain: constant factor.
    """

    left: Tensor
    up: Tensor
    down: Tensor
    gain: float


def nearest_divisor(size: int, scale: int) -> int:
    """Divisor of `size` nearest to `scale`; ties go to the smaller."""
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    return min(divisors, key=lambda d: (abs(d - scale), d))


def low_rank_form(factors: Sequence[Factors]) -> tuple[Tensor, Tensor]:
    """Thin factors of the summed adapters: A (x) UV = (I_p (x) U)(A (x) V).

    Returns:
        inner (K, R, n) = stack_i(A_i (x) V_i), and outer (K, m, R) = [gain_i I (x) U_i], side by side.
    """
    inner, outer = [], []
    for left, up, down, gain in factors:
        blocks, p, q = left.shape
        rank, columns = down.shape[1:]
        inner.append(torch.einsum("kpq,krc->kprqc", left, down).reshape(blocks, p * rank, q * columns))
        eye = torch.eye(p, dtype=up.dtype, device=up.device)
        outer.append(torch.einsum("ab,kmr->kambr", eye, gain * up).reshape(blocks, -1, p * rank))
    return torch.cat(inner, dim=1), torch.cat(outer, dim=2)


def kron_delta(x: Tensor, factors: Sequence[Factors], weights: Tensor | None = None) -> Tensor:
    """Sum of the adapters' responses; the m x n product is never built.

    Two thin matrix products. Three contractions per adapter need fewer operations, but on a CPU their skinny
    products ran at 0.9-1.5 times the time of this form (widths 192 to 768, forward and backward).

    Args:
        x: (..., n) with any leading shape; its first dimension is the sample where weights are given.
        weights: (B, N) weight of each adapter for each sample; None = 1 each.

    Returns:
        (..., K m) in the order of the blocks.

    Raises:
        ValueError: weights do not fit the samples or the adapters.
    """
    inner, outer = low_rank_form(factors)
    blocks, rank_sum, width = inner.shape
    hidden = F.linear(x, inner.reshape(blocks * rank_sum, width))
    hidden = hidden.reshape(-1, blocks, rank_sum)
    if weights is not None:
        hidden = hidden * _rows_of(weights, x, factors).to(hidden.dtype)[:, None, :]
    if blocks == 1:
        out = F.linear(hidden[:, 0], outer[0])
    else:
        out = torch.bmm(hidden.transpose(0, 1), outer.transpose(1, 2)).transpose(0, 1)
    return out.reshape(*x.shape[:-1], -1)


def _rows_of(weights: Tensor, x: Tensor, factors: Sequence[Factors]) -> Tensor:
    """Expand weights (B, N) to one number per row of x and inner component: (T, R)."""
    if x.dim() < 2 or weights.shape != (x.shape[0], len(factors)):
        raise ValueError(
            f"routing weights {tuple(weights.shape)} do not fit input {tuple(x.shape)} with {len(factors)} "
            "adapters: expected (samples, adapters)"
        )
    spread = [weights[:, i : i + 1].expand(-1, f.left.shape[1] * f.down.shape[1]) for i, f in enumerate(factors)]
    return torch.cat(spread, dim=1).repeat_interleave(x[0].numel() // x.shape[-1], dim=0)


class HekaAdapters(nn.Module):
    """Factors of all adapters of one layer; dW = 0 at the start (up = 0, left and down Kaiming-uniform).

    Raises:
        ValueError: the outputs do not split into equal blocks.
    """

    def __init__(
        self, inputs: int, outputs: int, scales: Sequence[int], rank: int, alpha: float, blocks: int = 1
    ) -> None:
        super().__init__()
        if outputs % blocks:
            raise ValueError(f"{outputs} outputs do not split into {blocks} equal blocks")
        rows = outputs // blocks
        sizes = [(nearest_divisor(rows, s), nearest_divisor(inputs, s)) for s in scales]
        self.sizes = tuple(sizes)
        self.gains = tuple(alpha / rank / math.sqrt(p) for p, _ in sizes)
        self.left = nn.ParameterList(torch.empty(blocks, p, q) for p, q in sizes)
        self.up = nn.ParameterList(torch.empty(blocks, rows // p, rank) for p, _ in sizes)
        self.down = nn.ParameterList(torch.empty(blocks, rank, inputs // q) for _, q in sizes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start values: only one of the factors is zero, so that it receives a gradient."""
        for tensor in self.up:
            nn.init.zeros_(tensor)
        for tensor in (*self.left, *self.down):
            for block in tensor.unbind(0):
                nn.init.kaiming_uniform_(block, a=math.sqrt(5))

    def factors(self) -> list[Factors]:
        """Adapters in the order of their scales."""
        return [Factors(*f) for f in zip(self.left, self.up, self.down, self.gains, strict=True)]

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """See `kron_delta`."""
        return kron_delta(x, self.factors(), weights)

    @torch.no_grad()
    def dense(self, weights: Tensor | None = None) -> Tensor:
        """The m x n increment of the layer (K m, n), for merging; weights (N,) or None = 1 each."""
        factors = self.factors()
        if weights is not None:
            factors = [f._replace(gain=f.gain * float(w)) for f, w in zip(factors, weights, strict=True)]
        inner, outer = low_rank_form(factors)
        return (outer @ inner).flatten(0, 1)


class Routing:
    """Hands one block's routing weights (B, N) to its layers while the block runs."""

    def __init__(self) -> None:
        self._weights: Tensor | None = None

    @contextmanager
    def use(self, weights: Tensor) -> Iterator[None]:
        """Make `weights` current; they are dropped on exit, so that no graph outlives its step."""
        self._weights = weights
        try:
            yield
        finally:
            self._weights = None

    def current(self) -> Tensor:
        """Weights of the running block.

        Raises:
            RuntimeError: no block runs.
        """
        if self._weights is None:
            raise RuntimeError("a routed HeKA layer was called outside its block: no routing weights are set")
        return self._weights


class HekaLinear(nn.Module):
    """A frozen linear layer plus its HeKA adapters: y = W0 x + b + (alpha / r) sum_i g_i dW_i x.

    Args:
        base: the layer; its parameters are frozen here.
        scales: wanted p and q of each adapter; the nearest divisors of the layer's sides are taken.
        blocks: equal groups of outputs that are adapted apart (3 for a fused qkv).
        routing: where g comes from; None = g_i = 1.
    """

    def __init__(
        self,
        base: nn.Linear,
        scales: Sequence[int],
        rank: int,
        alpha: float,
        *,
        blocks: int = 1,
        routing: Routing | None = None,
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        adapters = HekaAdapters(base.in_features, base.out_features, scales, rank, alpha, blocks)
        self.adapters = adapters.to(device=base.weight.device, dtype=base.weight.dtype)
        self.routing = routing
        self._merged: Tensor | None = None

    @property
    def merged(self) -> bool:
        """The increment is part of the base weight, and the adapters are skipped."""
        return self._merged is not None

    def forward(self, x: Tensor) -> Tensor:
        """x (..., n) -> (..., K m)."""
        out = self.base(x)
        if self.merged:
            return out
        return out + self.adapters(x, self.routing.current() if self.routing else None)

    @torch.no_grad()
    def merge(self, weights: Tensor | None = None) -> None:
        """Add the increment to the base weight; the layer then costs what the frozen one costs.

        Args:
            weights: (N,) fixed weight of each adapter; None = 1 each.

        Raises:
            RuntimeError: the layer is merged already, or a live router weights it and no fixed weights are given.
        """
        if self.merged:
            raise RuntimeError("the HeKA layer is merged already: unmerge it first")
        if self.routing is not None and weights is None:
            raise RuntimeError(
                "a live router weights this HeKA layer per sample, which no single matrix can hold: "
                "pass fixed weights, e.g. the router's mean over a calibration set"
            )
        if weights is None:
            weights = torch.ones(len(self.adapters.sizes))
        self._merged = weights.detach().cpu().clone()
        self.base.weight += self.adapters.dense(self._merged)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the increment out of the base weight again (exact up to rounding).

        Raises:
            RuntimeError: the layer is not merged.
        """
        if self._merged is None:
            raise RuntimeError("the HeKA layer is not merged")
        self.base.weight -= self.adapters.dense(self._merged)
        self._merged = None
