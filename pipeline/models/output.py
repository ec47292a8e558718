"""What every model returns.

Shapes: B batch, K classes, D feature width.
"""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class ModelOutput:
    """Result of one forward pass.

    logits: (B, K), unnormalised class scores.
    features: (B, D), pooled and not normalised; what DSM sees.
    extra_loss: scalar that the training step adds to the loss, e.g. the balance term of DBIR.
    stats: scalars to log, detached.
    """

    logits: Tensor
    features: Tensor
    extra_loss: Tensor | None = None
    stats: dict[str, Tensor] = field(default_factory=dict)
