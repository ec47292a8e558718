"""Parameter groups, schedule, SAM, finite checks."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.models.hdf import Hdf
from pipeline.optim import (
    SAM,
    NonFiniteError,
    adamw,
    assert_finite,
    clip_grads,
    frozen_batchnorm,
    grad_norm,
    lr_at,
    parameter_groups,
    set_lr,
)


class Quadratic(nn.Module):
    """Half the weighted square of its parameters: the gradient is scale * w."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.scale = torch.arange(1.0, len(values) + 1, dtype=torch.float64)

    def forward(self) -> torch.Tensor:
        return (self.scale * self.w**2).sum() / 2


def test_groups_hold_each_trainable_parameter_once():
    model = Hdf((1, 1), (8, 16), 7, 4)
    model.backbone.blocks[0].requires_grad_(False)
    decayed, exempt = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.05, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    grouped = [names[id(p)] for group in (decayed, exempt) for p in group["params"]]
    assert sorted(grouped) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    without = {names[id(p)] for p in exempt["params"]}
    assert {
        "dams.0.temporal.gain",
        "dams.0.temporal.spread_gain",
        "dams.1.frequency.noise",
        "dams.1.temporal_weight",
        "backbone.blocks.1.res_blocks.0.branch2.norm_a.weight",
        "backbone.blocks.3.proj.bias",
    } <= without
    assert not any("conv" in name and name.endswith("weight") for name in without)
    assert "dams.0.temporal.mix.weight" not in without


def test_a_model_without_trainable_parameters_is_refused():
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="Linear has no parameter that requires a gradient"):
        adamw(model, lr=1e-3, weight_decay=0)


def test_adamw_decays_only_its_first_group():
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(1)
        model.bias.fill_(1)
    optimizer = adamw(model, lr=0.1, weight_decay=0.5)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.allclose(model.weight, torch.tensor(0.95)) and torch.equal(model.bias, torch.ones(2))


@given(
    steps=st.integers(1, 500),
    warmup_share=st.floats(0, 0.9),
    lr=st.floats(1e-5, 1),
    min_share=st.floats(0, 1),
)
def test_schedule_rises_then_falls_within_its_limits(steps, warmup_share, lr, min_share):
    warmup, low = int(steps * warmup_share), lr * min_share
    rates = [lr_at(s, steps=steps, warmup_steps=warmup, lr=lr, min_lr=low) for s in range(steps)]
    assert all(0 < rate <= lr * (1 + 1e-9) or low == 0 for rate in rates)
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1]) and rates[warmup] == pytest.approx(lr)
    falling = rates[warmup:]
    assert all(a >= b for a, b in pairwise(falling)) and min(falling) >= low * (1 - 1e-9)
    if steps > warmup + 1:
        assert rates[-1] == pytest.approx(low, abs=1e-12)
        assert lr_at(steps + 7, steps=steps, warmup_steps=warmup, lr=lr, min_lr=low) == pytest.approx(low, abs=1e-12)


def test_schedule_values():
    rates = [lr_at(s, steps=8, warmup_steps=3, lr=1.0, min_lr=0.2) for s in range(8)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.2 + 0.4 * (1 + math.sqrt(0.5)), 0.6,
                                   0.2 + 0.4 * (1 - math.sqrt(0.5)), 0.2])  # fmt: skip


def test_set_lr_reaches_every_group():
    optimizer = adamw(nn.Linear(2, 2), lr=1, weight_decay=0.1)
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_norm_and_clip_skip_missing_gradients():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(1))]
    assert grad_norm(parameters) == 0
    parameters[0].grad, parameters[2].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    norm = grad_norm(parameters)
    assert norm == 5
    clip_grads(parameters, 10, norm)
    assert grad_norm(parameters) == 5
    clip_grads(parameters, 1, norm)
    assert grad_norm(parameters).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1), (math.inf, 1), (1, math.nan), (1, math.inf)])
def test_non_finite_values_stop_with_advice(loss, norm):
    with pytest.raises(NonFiniteError, match=rf"loss {loss}, gradient norm {norm}.*lower optim\.lr"):
        assert_finite(torch.tensor(float(loss)), torch.tensor(float(norm)))
    assert_finite(torch.tensor(1.0), torch.tensor(0.0))


def test_sam_follows_its_closed_form():
    model = Quadratic(1.0, -2.0)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5)
    w, scale = model.w.detach().clone(), model.scale
    for _ in range(3):
        norm = (scale * w).norm()
        ascended = w + 0.5 * scale * w / norm
        model().backward()
        assert sam.first_step() == pytest.approx(norm.item(), rel=1e-12) and sam.g == pytest.approx(norm.item())
        torch.testing.assert_close(model.w.detach(), ascended)
        assert model.w.grad is None
        model().backward()
        sam.second_step()
        w = w - 0.1 * scale * ascended
        torch.testing.assert_close(model.w.detach(), w)
    assert torch.equal(model.unused, torch.ones(2)) and torch.equal(model.frozen, torch.ones(2))


def test_restore_is_exact_also_where_the_second_gradient_is_missing():
    torch.manual_seed(0)
    model = nn.Linear(50, 50)
    before = [p.detach().clone() for p in model.parameters()]
    sam = SAM(torch.optim.SGD(model.parameters(), lr=1.0), rho=10.0)
    model(torch.randn(4, 50)).square().sum().backward()
    sam.first_step()
    assert not torch.equal(model.weight, before[0])
    sam.second_step()
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_sam_without_any_gradient_moves_nothing():
    model = Quadratic(1.0)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=1.0), rho=0.5)
    assert sam.first_step() == 0
    sam.second_step()
    assert model.w.item() == 1


def test_sam_survives_a_resume():
    def update(model: Quadratic, sam: SAM) -> None:
        model().backward()
        sam.first_step()
        model().backward()
        sam.second_step()

    straight = Quadratic(1.0, -2.0, 3.0)
    sam = SAM(adamw(straight, lr=0.1, weight_decay=0.1), rho=0.5)
    update(straight, sam)
    resumed = Quadratic(0.0, 0.0, 0.0)
    resumed.load_state_dict(straight.state_dict())
    fresh = SAM(adamw(resumed, lr=0.7, weight_decay=0.1), rho=0.5)
    assert fresh.g == 1.0
    fresh.load_state_dict(copy.deepcopy(sam.state_dict()))
    assert fresh.g == sam.g != 1.0
    update(straight, sam)
    update(resumed, fresh)
    assert torch.equal(straight.w, resumed.w)


def test_state_holds_tensors_and_plain_values_only(tmp_path):
    model = Quadratic(1.0)
    sam = SAM(adamw(model, lr=0.1, weight_decay=0), rho=0.5)
    model().backward()
    sam.first_step()
    with pytest.raises(RuntimeError, match=r"perturbed: save after second_step\(\)"):
        sam.state_dict()
    with pytest.raises(RuntimeError, match=r"called twice"):
        sam.first_step()
    model().backward()
    sam.second_step()
    torch.save(sam.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["g"] == sam.g


def test_a_non_finite_gradient_leaves_the_parameters_alone():
    model = Quadratic(1.0, 2.0)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=1.0), rho=0.5)
    model.w.grad = torch.tensor([1.0, math.nan], dtype=torch.float64)
    with pytest.raises(NonFiniteError, match="first pass of SAM"):
        sam.first_step()
    assert model.w.tolist() == [1, 2] and sam.g == 1.0
    sam.state_dict()


@pytest.mark.parametrize("rho", [0.0, -1.0, math.nan, math.inf])
def test_sam_needs_a_radius(rho):
    with pytest.raises(ValueError, match=r"rho = .* must be positive and finite"):
        SAM(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0), rho)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_frozen_batchnorm_normalises_by_the_batch_and_keeps_its_statistics(momentum):
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=momentum), nn.Linear(3, 3), nn.BatchNorm1d(3).eval())
    x = torch.randn(8, 3) * 3 + 1
    model(x)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="inside"), frozen_batchnorm(model):
        inside = model(x)
        raise RuntimeError("inside")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model(x), inside)
    after = model.state_dict()
    assert after["0.num_batches_tracked"] == 2 and after["2.num_batches_tracked"] == 0
