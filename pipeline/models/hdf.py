"""HDF: X3D with a DAM after each stage (arXiv 2507.15765; equations in docs/models.md).

Shapes: B batch, T frames, H and W pixels, D feature width, K classes.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from pipeline.config import HdfSettings
from pipeline.models.dam import Dam, Variant
from pipeline.models.output import ModelOutput
from pipeline.models.x3d import X3D, Head

KINETICS_MEAN, KINETICS_STD = 0.45, 0.225


class Hdf(nn.Module):
    """HDF on clips (B, 3, T, H, W).

    Args:
        depths, widths, classes, head, dropout: see X3D.
        frames: T; with DAM the model takes clips of exactly this length.
        dam: attach a DAM after each stage.
        variant: of the DAMs.
        normalise: shift and scale inputs as the Kinetics checkpoints expect; otherwise they stay in [0, 1].
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        classes: int,
        frames: int,
        *,
        head: Head = "plain",
        dropout: float = 0.5,
        dam: bool = True,
        variant: Variant = "paper",
        normalise: bool = False,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.backbone = X3D(depths, widths, classes, head=head, dropout=dropout, zero_init=zero_init)
        self.dams = nn.ModuleList(Dam(frames, variant=variant) if dam else nn.Identity() for _ in depths)

    @classmethod
    def from_settings(cls, settings: HdfSettings, classes: int, frames: int, *, pretrained: bool = True) -> "Hdf":
        """Build the model of a recipe.

        Args:
            pretrained: load `settings.weights` where it is set; False when a checkpoint of this model follows.

        Raises:
            pipeline.models.weights.WeightsError: the weights file cannot be read or does not fit.
        """
        model = cls(
            settings.depths,
            settings.widths,
            classes,
            frames,
            head=settings.head,
            dropout=settings.dropout,
            dam=settings.dam,
            variant=settings.variant,
            normalise=settings.weights is not None,
            zero_init=settings.zero_init,
        )
        if pretrained and settings.weights is not None:
            model.backbone.load_pretrained(settings.weights)
        return model

    def forward(self, x_BCTHW: Tensor) -> ModelOutput:
        """Classify clips with values in [0, 1]; the features are pooled, before dropout and classifier.

        Raises:
            ValueError: T is not the number of frames the DAMs were built for.
        """
        if self.normalise:
            x_BCTHW = (x_BCTHW - KINETICS_MEAN) / KINETICS_STD
        stem, *stages, head = self.backbone.blocks
        x_BCTHW = stem(x_BCTHW)
        for stage, dam in zip(stages, self.dams, strict=True):
            x_BCTHW = dam(stage(x_BCTHW))
        z_BD, logits_BK = head(x_BCTHW)
        return ModelOutput(logits=logits_BK, features=z_BD)
