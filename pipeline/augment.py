"""Clip-consistent augmentation on batches: one draw per clip, the same for all its frames.

Shapes: B clips, T frames, C = 3 channels, H x W pixels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config import AugmentSettings

ASPECT = (0.9, 1.1)
GREY = (0.299, 0.587, 0.114)


def to_float(x_BTHWC: Tensor) -> Tensor:
    """uint8 B,T,H,W,3 to float32 B,3,T,H,W in [0, 1]."""
    return x_BTHWC.permute(0, 4, 1, 2, 3).to(torch.float32).div_(255.0)


def augment(x_BCTHW: Tensor, settings: AugmentSettings, out_px: int, generator: torch.Generator) -> Tensor:
    """Random resized crop, horizontal flip and colour jitter.

    Args:
        x_BCTHW: float in [0, 1].
        out_px: side of the square output.
        generator: CPU generator; the draws depend on it alone, not on the device.

    Returns:
        float B,C,T,out_px,out_px in [0, 1].
    """
    x_BCTHW = _crop_flip(x_BCTHW, settings, out_px, generator)
    return _jitter(x_BCTHW, settings.jitter, generator) if settings.jitter else x_BCTHW


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def _crop_flip(x_BCTHW: Tensor, settings: AugmentSettings, out_px: int, generator: torch.Generator) -> Tensor:
    b, c, t, h, w = x_BCTHW.shape
    side = _uniform(b, settings.min_area, 1.0, generator).sqrt()
    aspect = ASPECT if settings.min_area < 1 else (1.0, 1.0)
    ratio = _uniform(b, math.log(aspect[0]), math.log(aspect[1]), generator).exp().sqrt()
    half_w, half_h = (side * ratio).clamp(max=1.0), (side / ratio).clamp(max=1.0)
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = half_w, half_h
    theta[:, 0, 2] = _uniform(b, -1.0, 1.0, generator) * (1 - half_w)
    theta[:, 1, 2] = _uniform(b, -1.0, 1.0, generator) * (1 - half_h)
    theta[:, 0, 0] *= 1.0 - 2.0 * (torch.rand(b, generator=generator) < settings.flip)
    # Frames ride as channels: one grid per clip, not one per frame.
    grid = F.affine_grid(theta.to(x_BCTHW), [b, c * t, out_px, out_px], align_corners=False)
    out = F.grid_sample(x_BCTHW.reshape(b, c * t, h, w), grid, padding_mode="border", align_corners=False)
    return out.view(b, c, t, out_px, out_px)


def _jitter(x_BCTHW: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    b = x_BCTHW.shape[0]
    brightness, contrast, saturation = (
        _uniform(b, 1 - strength, 1 + strength, generator).to(x_BCTHW).view(b, 1, 1, 1, 1) for _ in range(3)
    )
    x_BCTHW = x_BCTHW * brightness
    grey = (x_BCTHW * x_BCTHW.new_tensor(GREY).view(1, 3, 1, 1, 1)).sum(1, keepdim=True)
    x_BCTHW = grey + (x_BCTHW - grey) * saturation
    mean = grey.mean((2, 3, 4), keepdim=True)
    return (mean + (x_BCTHW - mean) * contrast).clamp(0.0, 1.0)
