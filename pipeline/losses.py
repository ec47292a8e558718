"""Cross entropy over the clips of all ranks, and the distribution-aware similarity loss (DSM) of HDF.

Both are scaled for gradients that DistributedDataParallel averages over ranks: the averaged gradient is that of one
rank with the whole batch. Computed in float32 (float64 for float64 inputs), autocast or not.
Source: arXiv 2507.15765 (`paper`) and its authors' partial release (`released`); equations in docs/models.md.

Shapes: B clips of this rank, N clips of all ranks, D feature width, K classes.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.collectives import gather_rows, global_sum, world_size
from pipeline.metrics import IGNORED

PAPER_BETA_IB, RELEASED_BETA_IB = 0.1, 0.5
NOTHING = -1e4
"""Logit of an excluded pair: its exponential is zero, yet a row of nothing else stays finite."""
TINY = 1e-12

Variant = Literal["paper", "released"]


def cross_entropy(
    logits_BK: Tensor, label_B: Tensor, *, smoothing: float = 0.0, class_weights_K: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Summed cross entropy of this rank and the number of clips in it (int64), for `global_mean`.

    Args:
        label_B: int64 classes; IGNORED leaves a row out.
        smoothing: label smoothing in [0, 1).
        class_weights_K: multiplies each class's terms, e.g. `balanced_weights`.
    """
    with torch.autocast(logits_BK.device.type, enabled=False):
        logits_BK = _widened(logits_BK)
        total = F.cross_entropy(
            logits_BK,
            label_B,
            weight=None if class_weights_K is None else class_weights_K.to(logits_BK),
            ignore_index=IGNORED,
            label_smoothing=smoothing,
            reduction="sum",
        )
    return total, (label_B != IGNORED).sum()


def global_mean(local_sum: Tensor, local_count: Tensor) -> Tensor:
    """Loss of this rank: its sum over the mean number of clips of a rank; 0 where no rank has a clip.

    Its mean over ranks, value and gradient, is the mean over all clips, however they are spread.
    """
    return local_sum * world_size() / global_sum(local_count).clamp(min=1)


def balanced_weights(counts: Sequence[int]) -> Tensor:
    """Class weights (K,) inverse to frequency, with mean 1 over the clips; 0 for a class without clips."""
    counts_K = torch.tensor(counts, dtype=torch.float32)
    present_K = counts_K > 0
    share_K = counts_K.sum() / (present_K.sum() * counts_K.clamp(min=1))
    return torch.where(present_K, share_K, 0.0)


def gather(features_BD: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, D) with gradients and labels (N,) of all ranks, for `dsm_loss`."""
    return gather_rows(features_BD), gather_rows(label_B)


class DsmLoss(NamedTuple):
    """Scalars of DSM: `loss` to minimise, and its two parts to log."""

    loss: Tensor
    contrastive: Tensor
    variance: Tensor


def dsm_loss(
    features_ND: Tensor,
    label_N: Tensor,
    *,
    tau: float = 0.07,
    eta: float = 0.2,
    beta_ib: float | None = None,
    variant: Variant = "paper",
) -> DsmLoss:
    """Similarity loss L_SC of the global batch: pass the output of `gather`.

    Finite, with finite gradients, for one clip, one class, no positive pair and features of any finite size.

    Args:
        features_ND: not normalised.
        label_N: int64 classes; IGNORED leaves a row out.
        tau: temperature.
        eta: centre and width of the pair weights.
        beta_ib: coefficient of the variance; default 0.1, in `released` 0.5.
        variant: `released` reproduces the authors' arithmetic, whose contrastive term all but vanishes and whose
            variance is maximised: for comparison only.
    """
    with torch.autocast(features_ND.device.type, enabled=False):
        z_ND = _unit_rows(_widened(features_ND))
        valid_N = label_N != IGNORED
        others_NN = valid_N[:, None] & valid_N & ~torch.eye(len(label_N), dtype=torch.bool, device=z_ND.device)
        positive_NN = others_NN & (label_N[:, None] == label_N)
        variance = _variance(z_ND, valid_N)
        if variant == "released":
            contrastive = _released_contrastive(z_ND, valid_N, positive_NN, tau, eta)
            # The authors add 1e-6 to the diagonal of the covariance.
            variance = variance + 1e-6 * z_ND.shape[1]
            beta_ib = RELEASED_BETA_IB if beta_ib is None else beta_ib
            return DsmLoss(contrastive - beta_ib * variance, contrastive.detach(), variance.detach())
        contrastive = _contrastive(z_ND, others_NN, positive_NN, tau, eta)
        beta_ib = PAPER_BETA_IB if beta_ib is None else beta_ib
        return DsmLoss(contrastive + beta_ib * variance, contrastive.detach(), variance.detach())


def lambdas(g: float, alpha: float = 10.0, beta: float = 0.1, *, variant: Variant = "paper") -> tuple[float, float]:
    """Weights (of cross entropy, of DSM) from the global gradient norm of the previous step, 1 before the first.

    alpha g / (g + 1) and beta / (g + 1); `released` keeps alpha and beta.

    Raises:
        ValueError: g is negative or not finite.
    """
    if not 0 <= g < float("inf"):
        raise ValueError(f"gradient norm {g} must be finite and not negative")
    return (alpha, beta) if variant == "released" else (alpha * (g / (g + 1)), beta / (g + 1))


def _contrastive(z_ND: Tensor, others_NN: Tensor, positive_NN: Tensor, tau: float, eta: float) -> Tensor:
    """L_DSC: mean over anchors with a positive pair."""
    cosine_NN = z_ND @ z_ND.T
    log_weight_NN = -((cosine_NN - eta) ** 2) / (2 * eta**2)
    weighted_NN = (cosine_NN / tau + log_weight_NN).masked_fill(~others_NN, NOTHING)
    log_share_NN = cosine_NN / tau - weighted_NN.logsumexp(dim=1, keepdim=True)
    anchors = positive_NN.any(dim=1).sum().clamp(min=1)
    return -_positive_means(log_share_NN, positive_NN).sum() / anchors


def _released_contrastive(z_ND: Tensor, valid_N: Tensor, positive_NN: Tensor, tau: float, eta: float) -> Tensor:
    """The release's term: weights of the shifted, scaled logits, on log-probabilities that include the anchor."""
    logits_NN = z_ND @ z_ND.T / tau
    logits_NN = logits_NN - logits_NN.max(dim=1, keepdim=True).values.detach()
    weight_NN = torch.exp(-0.5 * ((logits_NN - eta) / eta) ** 2) * valid_N
    weight_NN = weight_NN / weight_NN.sum(dim=1, keepdim=True).clamp(min=1e-8)
    partition_N1 = (logits_NN.exp() * valid_N).sum(dim=1, keepdim=True).clamp(min=1e-8)
    share_NN = weight_NN * (logits_NN - partition_N1.log())
    return -_positive_means(share_NN, positive_NN).sum() / valid_N.sum().clamp(min=1)


def _positive_means(value_NN: Tensor, positive_NN: Tensor) -> Tensor:
    """Mean over the positives of each anchor (N,), 0 where there is none."""
    kept_NN = torch.where(positive_NN, value_NN, 0.0)
    return kept_NN.sum(dim=1) / positive_NN.sum(dim=1).clamp(min=1)


def _variance(z_ND: Tensor, valid_N: Tensor) -> Tensor:
    """Trace of the unbiased covariance without the D x D matrix; 0 for one row."""
    mask_N1, count = valid_N[:, None], valid_N.sum()
    mean_D = torch.where(mask_N1, z_ND, 0.0).sum(dim=0) / count.clamp(min=1)
    return torch.where(mask_N1, z_ND - mean_D, 0.0).square().sum() / (count - 1).clamp(min=1)


def _unit_rows(x_ND: Tensor) -> Tensor:
    """Rows scaled to length 1; a row of zeros stays, and gets no gradient."""
    # Dividing by the largest entry first keeps the squares of huge and tiny features in range.
    largest_N1 = x_ND.detach().abs().amax(dim=1, keepdim=True)
    alive_N1 = largest_N1 > TINY
    scaled_ND = torch.where(alive_N1, x_ND, 1.0) / torch.where(alive_N1, largest_N1, 1.0)
    return torch.where(alive_N1, F.normalize(scaled_ND, dim=1), 0.0)


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
