"""Dual-domain attention (DAM) of HDF: a temporal gate and a DCT-frequency gate on any feature map.

Source: arXiv 2507.15765 (`paper`) and its authors' partial release (`released`); equations in docs/models.md.
Shapes: B batch, C channels, T frames, S = T channel bins, F = 49 frequencies, H and W pixels.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.weights import load_matching

SIDE = 7
"""Side of the DCT filters and of the attention kernel."""
PADDING = (0, SIDE // 2, SIDE // 2)
FREQUENCIES = SIDE * SIDE
NOISE_STD = 0.1
"""Spread of the learned noise at start."""
SHIFT_GAIN = 0.05
"""Factor of the distance from the spatial mean in the perturbation."""
EPS = 1e-6

Variant = Literal["paper", "released"]
Layout = Literal["BCTHW", "BTCHW", "TBCHW"]


class Dam(nn.Module):
    """DAM: x * (w_t (1 + g_t) + w_s (1 + g_s)) / 2 with a gate per frame and a gate per pixel.

    Both gates are computed in float32, autocast or not; the output has the input's shape, dtype and memory format.
    Any number of channels and any H and W: the 7 x 7 filters see zeros outside a smaller map.

    Args:
        frames: T, fixed by the linear layers over time.
        variant: `paper` averages each bin's spatial maxima and takes the difference to the previous frame;
            `released` takes the maximum over each bin and the difference to the previous bin.
        reduction: divides the width of the frequency attention; above 1 it has two convolutions.
        layout: order of the input's axes; TBCHW is that of the authors' release.
    """

    def __init__(
        self, frames: int, *, variant: Variant = "paper", reduction: int = 1, layout: Layout = "BCTHW"
    ) -> None:
        super().__init__()
        self.frames = frames
        self.axes = tuple(layout.index(axis) for axis in "BCTHW")
        self.inverse_axes = tuple("BCTHW".index(axis) for axis in layout)
        self.temporal = TemporalGate(frames, variant)
        self.frequency = FrequencyGate(reduction)
        self.temporal_weight = nn.Parameter(torch.tensor(0.8))
        self.frequency_weight = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        """Gate a feature map given in the layout of the constructor.

        Raises:
            ValueError: T is not the number of frames this module was built for.
        """
        x_BCTHW = x.permute(self.axes)
        if x_BCTHW.shape[2] != self.frames:
            raise ValueError(
                f"DAM was built for {self.frames} frames and got {x_BCTHW.shape[2]}: "
                "give it clips of data.frames frames"
            )
        gate_B1THW = self._gate(x_BCTHW).to(x.dtype)
        return (x_BCTHW * gate_B1THW).permute(self.inverse_axes)

    def _gate(self, x_BCTHW: Tensor) -> Tensor:
        with torch.autocast(x_BCTHW.device.type, enabled=False):
            temporal_B1T11 = self.temporal(x_BCTHW)[:, None, :, None, None]
            frequency_B11HW = self.frequency(x_BCTHW)
            gained_B1T11 = self.temporal_weight * (1 + temporal_B1T11)
            return (gained_B1T11 + self.frequency_weight * (1 + frequency_B11HW)) / 2


class TemporalGate(nn.Module):
    """One weight in (0, 1) per frame, from pooled channel bins and attention between frames."""

    def __init__(self, frames: int, variant: Variant = "paper") -> None:
        super().__init__()
        self.variant = variant
        self.mean_weight = nn.Parameter(torch.tensor(0.5))
        self.max_weight = nn.Parameter(torch.tensor(0.5))
        self.gain = nn.Parameter(torch.ones(frames, frames))
        self.spread_gain = nn.Parameter(torch.zeros(frames, frames))
        self.mix = nn.Linear(frames, frames, bias=False)
        self.query = nn.Linear(frames, frames)
        self.key = nn.Linear(frames, frames)
        self.value = nn.Linear(frames, frames)

    def no_weight_decay(self) -> set[str]:
        """Gates that start at 1 or 0 by design."""
        return {"gain", "spread_gain"}

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Gate (B, T), in float32 or wider."""
        robust_BTS = self._robust(*self._pool(x_BCTHW))
        mixed_BTS = self.mix(robust_BTS.transpose(1, 2)).transpose(1, 2)
        # Frames attend to frames, each described by its S bins: the release transposes before its attention.
        query, key, value = self.query(mixed_BTS), self.key(mixed_BTS), self.value(mixed_BTS)
        return F.scaled_dot_product_attention(query, key, value).mean(dim=2).sigmoid()

    def _pool(self, x_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Means and maxima over space and channel bins, each (B, T, S)."""
        bins, wide = self.mix.in_features, torch.promote_types(x_BCTHW.dtype, torch.float32)
        mean_BTC = x_BCTHW.mean(dim=(3, 4), dtype=wide).transpose(1, 2)
        max_BTC = x_BCTHW.amax(dim=(3, 4)).to(wide).transpose(1, 2)
        pool_max = F.adaptive_avg_pool1d if self.variant == "paper" else F.adaptive_max_pool1d
        return F.adaptive_avg_pool1d(mean_BTC, bins), pool_max(max_BTC, bins)

    def _robust(self, mean_BTS: Tensor, max_BTS: Tensor) -> Tensor:
        fused_BTS = self.mean_weight * mean_BTS + self.max_weight * max_BTS
        centred_BTS = mean_BTS - mean_BTS.mean(dim=2, keepdim=True)
        spread_BT1 = torch.linalg.vector_norm(centred_BTS, dim=2, keepdim=True)
        change_BTS = _change(mean_BTS, dim=1 if self.variant == "paper" else 2)
        return torch.sigmoid(self.gain * fused_BTS + self.spread_gain * spread_BT1 - change_BTS)


class FrequencyGate(nn.Module):
    """One weight in (0, 1) per pixel, from the perturbed 7 x 7 DCT spectrum of the mean frame.

    Filters have five axes although they are flat: `module.to(memory_format=torch.channels_last_3d)` refuses four.
    """

    def __init__(self, reduction: int = 1) -> None:
        super().__init__()
        self.register_buffer("filters", dct_filters(), persistent=False)
        self.noise = nn.Parameter(NOISE_STD * torch.randn(FREQUENCIES))
        self.noise_gain = nn.Parameter(torch.ones(FREQUENCIES))
        self.shift_gain = nn.Parameter(torch.zeros(FREQUENCIES))
        self.clean_weight = nn.Parameter(torch.tensor(0.5))
        self.noisy_weight = nn.Parameter(torch.tensor(0.5))
        self.fit_scale = nn.Parameter(torch.tensor(0.5))
        self.fit_gain = nn.Parameter(torch.ones(FREQUENCIES))
        self.fit_bias = nn.Parameter(torch.zeros(FREQUENCIES))
        self.attention = _frequency_attention(reduction)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Gate (B, 1, 1, H, W), in float32 or wider."""
        wide = torch.promote_types(x_BCTHW.dtype, torch.float32)
        # All channels share the filter bank, so their sum goes through it once.
        plane_B11HW = x_BCTHW.sum(dim=(1, 2), keepdim=True, dtype=wide) / x_BCTHW.shape[2]
        spectrum_BF1HW = F.conv3d(plane_B11HW, self.filters, padding=PADDING)
        noisy_BF1HW = spectrum_BF1HW + self._perturbation(spectrum_BF1HW)
        mixed_BF1HW = (self.clean_weight * spectrum_BF1HW + self.noisy_weight * noisy_BF1HW) / 2
        return self.attention(self._fit(mixed_BF1HW)).sigmoid()

    def _perturbation(self, spectrum_BF1HW: Tensor) -> Tensor:
        centred_BF1HW = spectrum_BF1HW - spectrum_BF1HW.mean(dim=(3, 4), keepdim=True)
        shift_BF111 = torch.linalg.vector_norm(centred_BF1HW, dim=(3, 4), keepdim=True)
        noise_F111 = _per_frequency(self.noise * self.noise_gain)
        strength_BF111 = noise_F111 + SHIFT_GAIN * _per_frequency(self.shift_gain) * shift_BF111
        return strength_BF111 * spectrum_BF1HW.sign()

    def _fit(self, mixed_BF1HW: Tensor) -> Tensor:
        spread_B11HW = (mixed_BF1HW.var(dim=1, keepdim=True) + EPS).sqrt()
        fitted_BF1HW = torch.tanh(self.fit_scale / (spread_B11HW + EPS) * mixed_BF1HW)
        return _per_frequency(self.fit_gain) * fitted_BF1HW + _per_frequency(self.fit_bias)


def dct_filters() -> Tensor:
    """The fixed bank (49, 1, 1, 7, 7), float32: filter i has vertical frequency i mod 7, horizontal i div 7."""
    position, frequency = torch.arange(SIDE, dtype=torch.float64), torch.arange(SIDE, dtype=torch.float64)
    basis_UR = torch.cos(math.pi * frequency[:, None] * (position + 0.5) / SIDE) * math.sqrt(2 / SIDE)
    basis_UR[0] = math.sqrt(1 / SIDE)
    filters_VURC = torch.einsum("ur,vc->vurc", basis_UR, basis_UR)
    return filters_VURC.reshape(FREQUENCIES, 1, 1, SIDE, SIDE).float()


RELEASED_NAMES = {
    "t_weight": "temporal_weight",
    "s_weight": "frequency_weight",
    "al": "frequency.clean_weight",
    "be": "frequency.noisy_weight",
    "fc_t.weight": "temporal.mix.weight",
    "temporal_robust.gamma": "temporal.gain",
    "temporal_robust.delta": "temporal.spread_gain",
    "temporal_robust.alpha": "temporal.mean_weight",
    "temporal_robust.beta": "temporal.max_weight",
    "adv_branch.noise": "frequency.noise",
    "adv_branch.alpha": "frequency.noise_gain",
    "adv_branch.beta": "frequency.shift_gain",
    "dynamic_tanh.alpha": "frequency.fit_scale",
    "dynamic_tanh.gamma": "frequency.fit_gain",
    "dynamic_tanh.beta": "frequency.fit_bias",
}
"""Parameter of the authors' module to parameter here; those of the two attentions are mapped by prefix."""
RELEASED_PREFIXES = {
    "freq_attn.net.": "frequency.attention.",
    "temporal_attn.q.": "temporal.query.",
    "temporal_attn.k.": "temporal.key.",
    "temporal_attn.v.": "temporal.value.",
}


def load_released(dam: Dam, weights: Mapping[str, Tensor], source: str = "released DAM") -> None:
    """Copy the parameters of the authors' module; their fixed filter bank (`dct_filter.*`) is not needed.

    Raises:
        pipeline.models.weights.WeightsError: all names and shapes that do not fit.
    """
    shapes = {name: tensor.shape for name, tensor in dam.state_dict().items()}
    renamed = {_own_name(n): tensor for n, tensor in weights.items() if not n.startswith("dct_filter.")}
    squeezed = {
        name: tensor.reshape(shapes[name]) if name in shapes and _same_but_ones(tensor, shapes[name]) else tensor
        for name, tensor in renamed.items()
    }
    load_matching(dam, squeezed, source)


def _own_name(name: str) -> str:
    for theirs, own in RELEASED_PREFIXES.items():
        if name.startswith(theirs):
            return own + name.removeprefix(theirs)
    return RELEASED_NAMES.get(name, name)


def _same_but_ones(tensor: Tensor, shape: torch.Size) -> bool:
    return [n for n in tensor.shape if n != 1] == [n for n in shape if n != 1]


def _frequency_attention(reduction: int) -> nn.Module:
    if not 1 <= reduction <= FREQUENCIES:
        raise ValueError(f"reduction {reduction} must be between 1 and {FREQUENCIES}")
    if reduction == 1:
        return _attention_conv(FREQUENCIES, 1)
    width = FREQUENCIES // reduction
    return nn.Sequential(_attention_conv(FREQUENCIES, width), nn.ReLU(inplace=True), _attention_conv(width, 1))


def _attention_conv(inputs: int, outputs: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, (1, SIDE, SIDE), padding=PADDING, bias=False)


def _change(x: Tensor, dim: int) -> Tensor:
    """Absolute difference to the previous entry along a dimension, zero for the first."""
    return torch.diff(x, dim=dim, prepend=x.narrow(dim, 0, 1)).abs()


def _per_frequency(value_F: Tensor) -> Tensor:
    return value_F[:, None, None, None]
