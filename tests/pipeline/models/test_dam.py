"""DAM against its equations, written out in float64, and where it can be attached."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.models.dam import Dam, dct_filters, load_released
from pipeline.models.weights import WeightsError


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def correlate(planes_IHW, kernels_OIRC):
    """Zero-padded 7 x 7 correlation, one output pixel at a time."""
    _, height, width = planes_IHW.shape
    padded = np.pad(planes_IHW, ((0, 0), (3, 3), (3, 3)))
    out = np.empty((len(kernels_OIRC), height, width))
    for h in range(height):
        for w in range(width):
            out[:, h, w] = (kernels_OIRC * padded[None, :, h : h + 7, w : w + 7]).sum(axis=(1, 2, 3))
    return out


def temporal_reference(x_TCHW, p, variant):
    frames, channels = x_TCHW.shape[:2]
    mean, peak = np.empty((frames, frames)), np.empty((frames, frames))
    for s in range(frames):
        channel_bin = slice(s * channels // frames, math.ceil((s + 1) * channels / frames))
        for t in range(frames):
            mean[t, s] = x_TCHW[t, channel_bin].mean()
            maxima = x_TCHW[t, channel_bin].max(axis=(1, 2))
            peak[t, s] = maxima.mean() if variant == "paper" else maxima.max()
    fused = p["temporal_robust.alpha"] * mean + p["temporal_robust.beta"] * peak
    robust = np.empty((frames, frames))
    for t in range(frames):
        spread = math.sqrt(sum((value - mean[t].mean()) ** 2 for value in mean[t]))
        for s in range(frames):
            if variant == "paper":
                change = abs(mean[t, s] - mean[t - 1, s]) if t else 0.0
            else:
                change = abs(mean[t, s] - mean[t, s - 1]) if s else 0.0
            gain, delta = p["temporal_robust.gamma"][0, t, s, 0, 0], p["temporal_robust.delta"][0, t, s, 0, 0]
            robust[t, s] = sigmoid(gain * fused[t, s] + delta * spread - change)
    mixed = p["fc_t.weight"] @ robust
    q, k, v = (mixed @ p[f"temporal_attn.{n}.weight"].T + p[f"temporal_attn.{n}.bias"] for n in "qkv")
    scores = np.exp(q @ k.T / math.sqrt(frames))
    return sigmoid((scores / scores.sum(axis=1, keepdims=True) @ v).mean(axis=1))


def frequency_reference(x_TCHW, p):
    bank = np.empty((49, 1, 7, 7))
    scale = [math.sqrt(1 / 7)] + [math.sqrt(2 / 7)] * 6
    for i in range(49):
        u, v = i % 7, i // 7
        for r in range(7):
            for c in range(7):
                wave = math.cos(math.pi * (r + 0.5) * u / 7) * math.cos(math.pi * (c + 0.5) * v / 7)
                bank[i, 0, r, c] = scale[u] * scale[v] * wave
    f = correlate(x_TCHW.mean(axis=0).sum(axis=0)[None], bank)
    noise, a, b = (p[f"adv_branch.{n}"].reshape(49, 1, 1) for n in ("noise", "alpha", "beta"))
    distance = np.sqrt(((f - f.mean(axis=(1, 2), keepdims=True)) ** 2).sum(axis=(1, 2), keepdims=True))
    perturbation = noise * a * np.sign(f) + 0.05 * b * distance * np.sign(f)
    f = (p["al"] * f + p["be"] * (f + perturbation)) / 2
    sigma = np.sqrt(f.var(axis=0, ddof=1, keepdims=True) + 1e-6)
    gamma, beta = (p[f"dynamic_tanh.{n}"].reshape(49, 1, 1) for n in ("gamma", "beta"))
    f = gamma * np.tanh(p["dynamic_tanh.alpha"] / (sigma + 1e-6) * f) + beta
    if "freq_attn.net.weight" in p:
        return sigmoid(correlate(f, p["freq_attn.net.weight"])[0])
    hidden = np.maximum(correlate(f, p["freq_attn.net.0.weight"]), 0)
    return sigmoid(correlate(hidden, p["freq_attn.net.2.weight"])[0])


def reference(x_BTCHW, p, variant):
    out = np.empty_like(x_BTCHW)
    for b, x in enumerate(x_BTCHW):
        g_t = temporal_reference(x, p, variant)[:, None, None, None]
        g_s = frequency_reference(x, p)[None, None]
        out[b] = (p["t_weight"] * (x * g_t + x) + p["s_weight"] * (x * g_s + x)) / 2
    return out


def released_parameters(frames, seed, reduction=1):
    """Random parameters under the names and in the shapes of the authors' module."""
    draw = np.random.default_rng(seed).normal
    width = 49 // reduction
    convolutions = {"net.weight": (1, 49, 7, 7)}
    if reduction > 1:
        convolutions = {"net.0.weight": (width, 49, 7, 7), "net.2.weight": (1, width, 7, 7)}
    shapes = {"t_weight": (1,), "s_weight": (1,), "al": (1,), "be": (1,), "fc_t.weight": (frames, frames)}
    shapes |= {f"temporal_attn.{n}.weight": (frames, frames) for n in "qkv"}
    shapes |= {f"temporal_attn.{n}.bias": (frames,) for n in "qkv"}
    shapes |= {f"temporal_robust.{n}": (1, frames, frames, 1, 1) for n in ("gamma", "delta")}
    shapes |= {f"temporal_robust.{n}": (1,) for n in ("alpha", "beta")}
    shapes |= {f"adv_branch.{n}": (1, 49, 1, 1) for n in ("noise", "alpha", "beta")}
    shapes |= {"dynamic_tanh.alpha": (1,), "dynamic_tanh.gamma": (49,), "dynamic_tanh.beta": (49,)}
    shapes |= {f"freq_attn.{name}": shape for name, shape in convolutions.items()}
    return {n: draw(scale=0.1 if n.startswith("freq_attn") else 0.7, size=s) for n, s in shapes.items()}


def tensors(parameters):
    return {name: torch.from_numpy(value).float() for name, value in parameters.items()}


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize(
    ("frames", "channels", "height", "width", "reduction"),
    [(16, 24, 7, 8, 1), (4, 8, 2, 3, 1), (5, 3, 9, 7, 4), (1, 6, 1, 1, 1)],
    ids=["bins overlap", "map below the filter", "fewer channels than bins", "one pixel of one frame"],
)
def test_equals_the_equations(variant, frames, channels, height, width, reduction):
    parameters = released_parameters(frames, seed=frames, reduction=reduction)
    dam = Dam(frames, variant=variant, reduction=reduction, layout="BTCHW")
    load_released(dam, tensors(parameters))
    x = np.random.default_rng(1).normal(size=(2, frames, channels, height, width)).astype(np.float32)
    expected = reference(x.astype(np.float64), parameters, variant)
    with torch.no_grad():
        torch.testing.assert_close(dam(torch.from_numpy(x)).double().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_variants_differ():
    x = torch.randn(1, 8, 4, 6, 6)
    torch.manual_seed(0)
    paper = Dam(4)
    released = Dam(4, variant="released")
    released.load_state_dict(paper.state_dict())
    assert (paper(x) - released(x)).abs().max() > 1e-4


def test_size_and_start():
    torch.manual_seed(0)
    dam = Dam(16)
    assert sum(p.numel() for p in dam.parameters()) == 4237
    x = torch.rand(2, 24, 16, 7, 7) + 0.5
    assert (dam(x) / x).mean().item() == pytest.approx(0.825, abs=0.08)


def test_the_filter_bank_is_an_orthonormal_basis_with_rows_running_fastest():
    bank = dct_filters().reshape(49, 7, 7)
    torch.testing.assert_close(bank.reshape(49, 49) @ bank.reshape(49, 49).T, torch.eye(49), rtol=0, atol=1e-6)
    assert torch.allclose(bank[1].std(dim=1), torch.zeros(7), atol=1e-6), "filter 1 varies from row to row only"
    assert torch.allclose(bank[7].std(dim=0), torch.zeros(7), atol=1e-6), "filter 7 varies along rows only"


def test_layouts_agree():
    x_BCTHW = torch.randn(2, 6, 4, 8, 8)
    dam, axes = Dam(4), {"BCTHW": (0, 1, 2, 3, 4), "BTCHW": (0, 2, 1, 3, 4), "TBCHW": (2, 0, 1, 3, 4)}
    for layout, order in axes.items():
        other = Dam(4, layout=layout)
        other.load_state_dict(dam.state_dict())
        torch.testing.assert_close(other(x_BCTHW.permute(order)), dam(x_BCTHW).permute(order))


def test_attaches_to_a_residual_network_and_to_patch_grids():
    from torchvision.models.video import r3d_18

    model = r3d_18(weights=None)
    model.layer1 = nn.Sequential(model.layer1, Dam(8))
    model.layer2 = nn.Sequential(model.layer2, Dam(4))
    assert model(torch.rand(1, 3, 8, 32, 32)).shape == (1, 400)
    patches_TBDhw = torch.randn(4, 2, 32, 14, 14)
    assert Dam(4, layout="TBCHW")(patches_TBDhw).shape == patches_TBDhw.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_leaves_the_gates_in_float32(dtype):
    torch.manual_seed(0)
    dam, x = Dam(4), torch.randn(2, 8, 4, 9, 9).to(dtype)
    plain = dam._gate(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        gate, out = dam._gate(x), dam(x)
    assert gate.dtype == torch.float32 and gate.shape == (2, 1, 4, 9, 9)
    assert out.dtype == dtype
    torch.testing.assert_close(gate, plain, rtol=1e-5, atol=1e-6)


def test_memory_format_is_kept():
    dam = Dam(4).to(memory_format=torch.channels_last_3d)
    x = torch.randn(2, 8, 4, 9, 9)
    last = x.contiguous(memory_format=torch.channels_last_3d)
    out = dam(last)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(out, dam(x))


def test_compiles_without_graph_breaks():
    torch.manual_seed(0)
    dam, x = Dam(4), torch.randn(2, 8, 4, 9, 9)
    compiled = torch.compile(dam, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(x), dam(x))
    compiled(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in dam.parameters())


def test_gradients_are_right():
    torch.manual_seed(0)
    dam = Dam(3).double()
    x = torch.randn(1, 4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dam, (x,))


@settings(max_examples=15, deadline=None)
@given(
    frames=st.integers(1, 6),
    channels=st.integers(1, 9),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    level=st.sampled_from([0.0, 1.0, -1e4, 1e6]),
    spread=st.sampled_from([0.0, 1.0]),
    variant=st.sampled_from(["paper", "released"]),
)
def test_any_size_and_level_stays_finite(frames, channels, height, width, level, spread, variant):
    dam = Dam(frames, variant=variant)
    x = (level + spread * torch.randn(2, channels, frames, height, width)).requires_grad_()
    out = dam(x)
    out.square().mean().backward()
    assert out.shape == x.shape and out.isfinite().all() and x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in dam.parameters())
    assert (out.abs() <= 1.1 * x.abs() + 1e-6).all() and (out.abs() >= 0.55 * x.abs() - 1e-6).all()


def test_another_number_of_frames_is_refused():
    with pytest.raises(ValueError, match=r"built for 16 frames and got 8: give it clips of data\.frames"):
        Dam(16)(torch.rand(1, 8, 8, 9, 9))


def test_released_parameters_that_do_not_fit_are_all_named():
    parameters = tensors(released_parameters(4, seed=0))
    del parameters["al"]
    parameters["fc_t.weight"] = torch.zeros(5, 5)
    parameters["extra"] = torch.zeros(1)
    parameters["dct_filter.filter"] = torch.zeros(49, 7, 7)
    with pytest.raises(WeightsError) as caught:
        load_released(Dam(4, variant="released"), parameters)
    for part in ("3 mismatches", "missing frequency.clean_weight", "temporal.mix.weight is (5, 5)", "surplus extra"):
        assert part in str(caught.value)


@pytest.mark.parametrize("reduction", [0, 50])
def test_reduction_has_limits(reduction):
    with pytest.raises(ValueError, match=f"reduction {reduction} must be between 1 and 49"):
        Dam(4, reduction=reduction)
