"""Sums, flags and gathers over the ranks of torch.distributed; without a process group they act on one rank.

Shapes: B rows of this rank, N rows of all ranks, D width.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if _distributed() else 1


def global_sum(value: Tensor) -> Tensor:
    """Sum of a tensor over ranks, without gradient; the argument stays as it is."""
    total = value.detach().clone()
    if _distributed():
        dist.all_reduce(total)
    return total


def true_on_every_rank(flag: Tensor) -> bool:
    """Whether a boolean scalar holds on every rank; all ranks get the same answer."""
    votes = global_sum(flag.to(torch.int32))
    return int(votes) == world_size()


def gather_rows(x: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, in rank order, with gradients.

    Args:
        x: (B, ...), any dtype; B may differ between ranks, the other sizes may not.

    Returns:
        (N, ...). The gradient of this rank's rows is the sum of the gradients that all ranks computed for them.
    """
    if world_size() == 1:
        return x
    return _GatherRows.apply(x, _row_counts(x))


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _row_counts(x: Tensor) -> list[int]:
    mine = torch.tensor([len(x)], device=x.device)
    counts = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(counts, mine)
    return torch.cat(counts).tolist()


class _GatherRows(torch.autograd.Function):
    # torch.distributed.nn.functional.all_gather is deprecated since torch 2.15 and takes equal shapes only.
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = x.new_zeros(max(counts), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        return global_sum(grad).split(ctx.counts)[dist.get_rank()], None
