"""Models by their settings."""

from torch import nn

from pipeline.config import HdfSettings, HkaferSettings


def build_model(settings: HdfSettings | HkaferSettings, *, classes: int, frames: int, image_px: int) -> nn.Module:
    """Build the model that a recipe names.

    Args:
        classes: K.
        frames: frames per clip (HKAFER takes any number).
        image_px: side of the input.

    Returns:
        Module: x (B, 3, T, H, W), float in [0, 1] -> ModelOutput.

    Raises:
        ValueError: settings that the model cannot be built from.
    """
    match settings:
        case HdfSettings():
            from pipeline.models.hdf import Hdf

            return Hdf.from_settings(settings, classes=classes, frames=frames)
        case HkaferSettings():
            from pipeline.models.hkafer import Hkafer

            return Hkafer.from_settings(settings, classes=classes, image_px=image_px)
        case _:
            raise ValueError(f"no model for settings of type {type(settings).__name__}")
