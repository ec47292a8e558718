"""DBIR: the dual-branch interactive router that weights a block's HeKA adapters per sample.

Reconstructed from the abstract of HKAFER (AAAI 2026): equations and hyper-parameters are not public.
Shapes: B samples, L tokens, D encoder width, N adapters, d router width.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Branches = Literal["global", "regional", "dual"]
Mode = Literal["none", "static", "global", "regional", "dual"]


class StaticRouter(nn.Module):
    """Learned weights that do not depend on the input: the ablation of DBIR's inputs."""

    def __init__(self, adapters: int, tau: float = 1.0) -> None:
        super().__init__()
        self.tau = tau
        self.logits = nn.Parameter(torch.zeros(adapters))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, L, D) -> weights (B, N), each row sums to N."""
        return _weights(self.logits, self.tau).expand(tokens.shape[0], -1)


class Dbir(nn.Module):
    """Routes on the class token (global branch), attention-pooled patches (regional branch), or both.

    The adapters' embeddings start at zero, so routing starts uniform; they exchange information in one
    self-attention step. Layer norms have no parameters of their own: the linear maps after them absorb those.

    Args:
        width: D.
        adapters: N.
        branches: `dual` is DBIR; `global` and `regional` keep one branch, without gates.
        router_width: d.
        tau: temperature of the softmax.
        prefix_tokens: tokens before the patch tokens (class, registers).
        class_token: the first token is a class token; otherwise the mean of all tokens takes its place.
    """

    def __init__(
        self,
        width: int,
        adapters: int,
        *,
        branches: Branches = "dual",
        router_width: int = 8,
        tau: float = 1.0,
        prefix_tokens: int = 1,
        class_token: bool = True,
    ) -> None:
        super().__init__()
        self.tau, self.prefix_tokens, self.class_token = tau, prefix_tokens, class_token
        self.down_global = nn.Linear(width, router_width) if branches != "regional" else None
        self.down_regional = nn.Linear(width, router_width) if branches != "global" else None
        self.attend = nn.Linear(width, 1, bias=False) if branches != "global" else None
        self.gate_global = nn.Linear(router_width, router_width) if branches == "dual" else None
        self.gate_regional = nn.Linear(router_width, router_width) if branches == "dual" else None
        self.embeddings = nn.Parameter(torch.zeros(adapters, router_width))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, L, D), the block's normalised input -> weights (B, N), each row sums to N."""
        # Not a matrix product: autocast would round the logits to bf16.
        logits = (self._query(tokens)[:, None] * self._cooperating()).sum(dim=-1)
        return _weights(logits, self.tau)

    def _query(self, tokens: Tensor) -> Tensor:
        if self.down_regional is None:
            return self._global(tokens)
        if self.down_global is None:
            return self._regional(tokens)
        u, v = self._global(tokens), self._regional(tokens)
        return u * self.gate_regional(v).sigmoid() + v * self.gate_global(u).sigmoid()

    def _global(self, tokens: Tensor) -> Tensor:
        pooled = tokens[:, 0] if self.class_token else tokens.mean(dim=1)
        return self.down_global(_standardise(pooled))

    def _regional(self, tokens: Tensor) -> Tensor:
        patches = tokens[:, self.prefix_tokens :]
        attention = self.attend(_standardise(patches)).softmax(dim=1)
        return self.down_regional((attention * patches).sum(dim=1))

    def _cooperating(self) -> Tensor:
        rows = self.embeddings
        affinity = (rows @ rows.t() / math.sqrt(rows.shape[1])).softmax(dim=-1)
        return rows + affinity @ rows


def make_router(
    mode: Mode,
    width: int,
    adapters: int,
    *,
    router_width: int = 8,
    tau: float = 1.0,
    prefix_tokens: int = 1,
    class_token: bool = True,
) -> nn.Module | None:
    """Router of one block; None for mode `none` (every adapter has weight 1)."""
    if mode == "none":
        return None
    if mode == "static":
        return StaticRouter(adapters, tau)
    return Dbir(
        width,
        adapters,
        branches=mode,
        router_width=router_width,
        tau=tau,
        prefix_tokens=prefix_tokens,
        class_token=class_token,
    )


def balance_term(weights: Sequence[Tensor]) -> Tensor:
    """Squared coefficient of variation of the adapters' mean weights, averaged over blocks.

    Args:
        weights: one (B, N) tensor per block; rows sum to N, so the mean over adapters is 1.

    Returns:
        Scalar >= 0; 0 when the batch uses all adapters equally in every block.
    """
    shares = torch.stack([w.mean(dim=0) for w in weights])
    return shares.var(dim=1, correction=0).mean()


@torch.no_grad()
def routing_stats(weights: Sequence[Tensor], scales: Sequence[int]) -> dict[str, Tensor]:
    """Mean entropy (nats, at most log N) and share of each adapter (they sum to 1), overall and per block."""
    shares = torch.stack([w / w.shape[1] for w in weights])
    entropy = torch.special.entr(shares).sum(dim=-1).mean(dim=1)
    share = shares.mean(dim=1)
    stats = {"router/entropy": entropy.mean()}
    stats |= {f"router/share_s{s}": v for s, v in zip(scales, share.mean(dim=0), strict=True)}
    for block in range(len(weights)):
        stats[f"router/block{block:02d}/entropy"] = entropy[block]
        stats |= {f"router/block{block:02d}/share_s{s}": v for s, v in zip(scales, share[block], strict=True)}
    return stats


def _standardise(tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:])


def _weights(logits: Tensor, tau: float) -> Tensor:
    return logits.shape[-1] * torch.softmax(logits / tau, dim=-1)
