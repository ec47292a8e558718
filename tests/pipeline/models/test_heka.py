import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.models.heka import HekaLinear, Routing, nearest_divisor

SCALES = (2, 3, 8)


def make_layer(inputs=12, outputs=30, scales=SCALES, rank=2, alpha=3.0, **more) -> HekaLinear:
    layer = HekaLinear(nn.Linear(inputs, outputs).double(), scales, rank, alpha, **more)
    with torch.no_grad():
        for up in layer.adapters.up:
            up.normal_()
    return layer


def reference(layer: HekaLinear, x: Tensor, weights: Tensor | None, rank: int, alpha: float) -> Tensor:
    """The layer's definition with torch.kron, one sample (first dimension) at a time."""
    if weights is None:
        weights = torch.ones(x.shape[0], len(layer.adapters.sizes), dtype=x.dtype)
    outputs = []
    for sample, gates in zip(x, weights, strict=True):
        blocks = []
        for k in range(layer.adapters.left[0].shape[0]):
            increments = [
                gate * torch.kron(f.left[k], f.up[k] @ f.down[k]) / math.sqrt(f.left.shape[1])
                for gate, f in zip(gates, layer.adapters.factors(), strict=True)
            ]
            blocks.append(alpha / rank * sum(increments))
        outputs.append(F.linear(sample, layer.base.weight + torch.cat(blocks), layer.base.bias))
    return torch.stack(outputs)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    assert (actual - expected).norm() <= 1e-10 * expected.norm().clamp_min(1e-300)


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.integers(1, 30),
    rows=st.integers(1, 30),
    blocks=st.sampled_from([1, 3]),
    rank=st.integers(1, 5),
    scales=st.lists(st.integers(1, 40), min_size=1, max_size=4, unique=True).map(sorted),
    leading=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    routed=st.booleans(),
)
def test_forward_and_all_gradients_equal_torch_kron(inputs, rows, blocks, rank, scales, leading, routed):
    torch.manual_seed(0)
    routing = Routing() if routed else None
    layer = make_layer(inputs, rows * blocks, scales, rank, alpha=5.0, blocks=blocks, routing=routing)
    x = torch.randn(*leading, inputs, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(leading[0], len(scales), dtype=torch.float64, requires_grad=True) if routed else None
    wanted = [x, *layer.adapters.parameters(), *([weights] if routed else [])]
    expected = reference(layer, x, weights, rank, 5.0)
    if routed:
        with routing.use(weights):
            actual = layer(x)
    else:
        actual = layer(x)
    assert actual.shape == (*leading, rows * blocks)
    assert_same(actual, expected)
    direction = torch.randn_like(expected)
    actual_grads = torch.autograd.grad(actual, wanted, direction)
    expected_grads = torch.autograd.grad(expected, wanted, direction)
    for got, want in zip(actual_grads, expected_grads, strict=True):
        assert_same(got, want)


def test_unbatched_vector_without_routing():
    layer = make_layer()
    x = torch.randn(12, dtype=torch.float64)
    assert_same(layer(x), reference(layer, x[None], None, 2, 3.0)[0])


def test_bf16_autocast_stays_within_two_percent():
    torch.manual_seed(1)
    layer = HekaLinear(nn.Linear(96, 192), (4, 8, 16, 32), 4, 4.0, routing=(routing := Routing()))
    for up in layer.adapters.up:
        nn.init.normal_(up)
    x, weights = torch.randn(4, 17, 96), torch.rand(4, 4)
    with routing.use(weights):
        exact = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = layer(x)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() <= 2e-2 * exact.norm()


def test_start_equals_the_frozen_layer_and_trains_only_adapters():
    torch.manual_seed(2)
    base = nn.Linear(64, 96)
    layer = HekaLinear(base, (4, 8, 16, 32), 4, 4.0, blocks=3)
    x = torch.randn(5, 64)
    assert torch.equal(layer(x), base(x))
    layer(x).square().sum().backward()
    assert base.weight.grad is None and base.bias.grad is None
    assert all(up.grad.abs().sum() > 0 for up in layer.adapters.up)
    assert all(left.abs().sum() > 0 for left in (*layer.adapters.left, *layer.adapters.down))


def test_factors_of_equal_norm_respond_alike_at_every_scale():
    torch.manual_seed(3)
    layer = HekaLinear(nn.Linear(768, 768), (4, 8, 16, 32), 4, 4.0)
    with torch.no_grad():
        for up in layer.adapters.up:
            up.copy_(F.normalize(torch.randn_like(up).flatten(), dim=0).view_as(up))
    x = torch.randn(64, 768)
    sizes = [layer.adapters(x, torch.eye(4)[i].expand(64, 4)).norm().item() for i in range(4)]
    assert max(sizes) < 1.3 * min(sizes)


def test_fused_blocks_do_not_mix():
    layer = make_layer(12, 30, blocks=3)
    x = torch.randn(4, 12, dtype=torch.float64)
    delta = layer.adapters(x)[:, 10:20].sum()
    grads = torch.autograd.grad(delta, list(layer.adapters.parameters()))
    assert all(g[0].abs().sum() == 0 and g[2].abs().sum() == 0 and g[1].abs().sum() > 0 for g in grads)


@pytest.mark.parametrize(("size", "scale", "divisor"), [(12, 4, 4), (12, 5, 4), (10, 8, 10), (7, 4, 1), (768, 32, 32)])
def test_nearest_divisor_breaks_ties_downwards(size, scale, divisor):
    assert nearest_divisor(size, scale) == divisor


def test_parameter_count_follows_the_formula():
    layer = HekaLinear(nn.Linear(768, 768), (4, 8, 16, 32), 4, 4.0)
    expected = sum(s * s + 4 * (768 // s + 768 // s) for s in (4, 8, 16, 32))
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == expected


def test_merge_keeps_the_output_and_unmerge_restores_the_weight():
    layer = make_layer(blocks=3)
    before, x = layer.base.weight.clone(), torch.randn(4, 12, dtype=torch.float64)
    expected = layer(x)
    layer.merge()
    assert layer.merged
    assert_same(layer(x), expected)
    assert_same(F.linear(x, layer.base.weight, layer.base.bias), expected)
    layer.unmerge()
    assert_same(layer.base.weight, before)
    assert_same(layer(x), expected)


def test_merge_with_fixed_weights_equals_routing_with_them():
    layer = make_layer(routing=(routing := Routing()))
    x, weights = torch.randn(4, 12, dtype=torch.float64), torch.tensor([0.5, 2.0, 0.25], dtype=torch.float64)
    with routing.use(weights.expand(4, 3)):
        expected = layer(x)
    layer.merge(weights)
    assert_same(layer(x), expected)


def test_merge_errors_are_clear():
    routed = make_layer(routing=Routing())
    with pytest.raises(RuntimeError, match="live router"):
        routed.merge()
    layer = make_layer()
    with pytest.raises(RuntimeError, match="not merged"):
        layer.unmerge()
    layer.merge()
    with pytest.raises(RuntimeError, match="merged already"):
        layer.merge()


def test_routing_errors_are_clear():
    layer = make_layer(routing=(routing := Routing()))
    x = torch.randn(4, 12, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="outside its block"):
        layer(x)
    with routing.use(torch.ones(3, 3)), pytest.raises(ValueError, match=r"\(3, 3\) do not fit input \(4, 12\)"):
        layer(x)
    with pytest.raises(RuntimeError, match="outside its block"):
        layer(x)


def test_outputs_must_split_into_blocks():
    with pytest.raises(ValueError, match="31 outputs do not split into 3"):
        make_layer(outputs=31, blocks=3)
