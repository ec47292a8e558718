"""X3D video backbone with the module names of the public checkpoints (Feichtenhofer, arXiv 2004.04730).

Shapes: B batch, C channels, T frames, H and W pixels, D feature width, K classes.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.models.weights import load_matching, read_weights

EXPANSION = 2.25
"""Width of a bottleneck over the width of its block."""
SQUEEZE = 1 / 16
"""Width of a squeeze-excite over the width of its bottleneck."""
PROJECTED_WIDTH = 2048
"""Feature width of the stock head."""

Head = Literal["plain", "x3d"]


class X3D(nn.Module):
    """X3D: a stem, one stage per entry of `depths`, a head.

    `blocks` holds them in this order, so `blocks[1:-1]` are the stages; T is never reduced, each stage halves H and W.

    Args:
        depths: residual blocks per stage; (3, 5, 11, 7) is XS, S and M.
        widths: channels per stage; (24, 48, 96, 192) in the public models.
        classes: K.
        head: `plain` pools and classifies (D = widths[-1]); `x3d` is the stock head (D = 2048).
        dropout: before the classifier.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        classes: int,
        *,
        head: Head = "plain",
        dropout: float = 0.5,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        stages = [
            _Stage(inputs, outputs, depth)
            for inputs, outputs, depth in zip((widths[0], *widths[:-1]), widths, depths, strict=True)
        ]
        self.blocks = nn.ModuleList([_Stem(widths[0]), *stages, _Head(widths[-1], classes, head, dropout)])
        self._initialise(zero_init)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Logits (B, K) of clips (B, 3, T, H, W)."""
        for block in self.blocks[:-1]:
            x_BCTHW = block(x_BCTHW)
        _, logits_BK = self.blocks[-1](x_BCTHW)
        return logits_BK

    def load_pretrained(self, path: str | Path) -> None:
        """Load a public checkpoint apart from its classifier (apart from its whole head when this head is plain).

        Raises:
            pipeline.models.weights.WeightsError: unreadable file, or all names and shapes that differ.
        """
        head = len(self.blocks) - 1
        skip = f"blocks.{head}." if self.blocks[-1].is_plain else f"blocks.{head}.proj."
        load_matching(self, read_weights(path), path, skip=skip)

    def _initialise(self, zero_init: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, _Bottleneck) and zero_init:
                # Every residual branch starts as zero (arXiv 1706.02677), as in the public training code.
                nn.init.zeros_(module.norm_c.weight)


class _Stem(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        # The public checkpoints call the spatial convolution conv_t and the temporal one conv_xy.
        convolutions = {
            "conv_t": _conv(3, width, (1, 3, 3), stride=2),
            "conv_xy": _conv(width, width, (5, 1, 1), groups=width),
        }
        self.conv = nn.Sequential(OrderedDict(convolutions))
        self.norm = nn.BatchNorm3d(width)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x_BCTHW)))


class _Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__()
        first = _ResBlock(inputs, outputs, stride=2, squeeze=True)
        rest = [_ResBlock(outputs, outputs, stride=1, squeeze=i % 2 == 0) for i in range(1, depth)]
        self.res_blocks = nn.Sequential(first, *rest)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.res_blocks(x_BCTHW)


class _ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, stride: int, squeeze: bool) -> None:
        super().__init__()
        self.branch1_conv = _conv(inputs, outputs, (1, 1, 1), stride=stride) if stride > 1 else None
        self.branch1_norm = nn.BatchNorm3d(outputs) if inputs != outputs else None
        self.branch2 = _Bottleneck(inputs, outputs, stride, squeeze)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        shortcut = x_BCTHW if self.branch1_conv is None else self.branch1_conv(x_BCTHW)
        shortcut = shortcut if self.branch1_norm is None else self.branch1_norm(shortcut)
        return self.activation(shortcut + self.branch2(x_BCTHW))


class _Bottleneck(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        inner = int(EXPANSION * outputs)
        self.conv_a = _conv(inputs, inner, (1, 1, 1))
        self.norm_a = nn.BatchNorm3d(inner)
        self.act_a = nn.ReLU(inplace=True)
        self.conv_b = _conv(inner, inner, (3, 3, 3), stride=stride, groups=inner)
        self.norm_b = nn.Sequential(nn.BatchNorm3d(inner), _SqueezeExcite(inner) if squeeze else nn.Identity())
        self.act_b = nn.SiLU(inplace=True)
        self.conv_c = _conv(inner, outputs, (1, 1, 1))
        self.norm_c = nn.BatchNorm3d(outputs)


class _SqueezeExcite(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        squeezed = _round_to_8(width * SQUEEZE)
        self.block = nn.Sequential(
            nn.Conv3d(width, squeezed, 1), nn.ReLU(inplace=True), nn.Conv3d(squeezed, width, 1), nn.Sigmoid()
        )

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return x_BCTHW * self.block(x_BCTHW.mean(dim=(2, 3, 4), keepdim=True))


class _ProjectedPool(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__()
        inner = int(EXPANSION * width)
        self.pre_conv = _conv(width, inner, (1, 1, 1))
        self.pre_norm = nn.BatchNorm3d(inner)
        self.pre_act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.post_conv = _conv(inner, PROJECTED_WIDTH, (1, 1, 1))
        self.post_act = nn.ReLU(inplace=True)


class _Head(nn.Module):
    def __init__(self, width: int, classes: int, head: Head, dropout: float) -> None:
        super().__init__()
        self.is_plain = head == "plain"
        self.pool = nn.AdaptiveAvgPool3d(1) if self.is_plain else _ProjectedPool(width)
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(width if self.is_plain else PROJECTED_WIDTH, classes)

    def forward(self, x_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features (B, D) and logits (B, K)."""
        z_BD = torch.flatten(self.pool(x_BCTHW), 1)
        return z_BD, self.proj(self.dropout(z_BD))


def _conv(inputs: int, outputs: int, kernel: tuple[int, int, int], *, stride: int = 1, groups: int = 1) -> nn.Conv3d:
    """Convolution without bias, same padding, stride over H and W only."""
    padding = tuple(size // 2 for size in kernel)
    return nn.Conv3d(inputs, outputs, kernel, (1, stride, stride), padding, groups=groups, bias=False)


def _round_to_8(width: float) -> int:
    """Nearest multiple of 8, at least 8, never more than 10 % below the width."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded
