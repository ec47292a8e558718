"""X3D: sizes, agreement with pytorchvideo, public checkpoints."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.models.weights import WeightsError
from pipeline.models.x3d import X3D, _round_to_8

M_DEPTHS, M_WIDTHS = (3, 5, 11, 7), (24, 48, 96, 192)
SMALL = {"depths": (1, 2), "widths": (8, 16)}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def randomise(model: nn.Module) -> None:
    """Random weights and running statistics, so that no zero-initialised branch hides an error."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.normal_(std=0.3 if tensor.dim() == 1 else tensor[0].numel() ** -0.5)


def test_parameter_counts_are_the_published_ones():
    assert parameters(X3D(M_DEPTHS, M_WIDTHS, 400, head="x3d")) == 3_794_274
    assert parameters(X3D(M_DEPTHS, M_WIDTHS, 7)) == 2_007_481


@pytest.mark.parametrize("train", [False, True])
def test_agrees_with_pytorchvideo_on_copied_weights(train):
    reference_module = pytest.importorskip("pytorchvideo.models.x3d", reason="needs the dev extra pytorchvideo")
    reference = reference_module.create_x3d(
        input_clip_length=4, input_crop_size=64, model_num_class=400, head_activation=None, dropout_rate=0
    )
    torch.manual_seed(0)
    randomise(reference)
    model = X3D(M_DEPTHS, M_WIDTHS, 400, head="x3d", dropout=0)
    assert list(model.state_dict()) == list(reference.state_dict())
    model.load_state_dict(reference.state_dict())
    model.train(train)
    reference.train(train)
    x = torch.rand(2, 3, 4, 64, 64)
    with torch.no_grad():
        expected = reference(x)
        assert expected.std() > 0.01
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("px", "side"), [(64, 16), (37, 10), (16, 4)])
def test_time_is_kept_and_each_stage_halves_the_space(px, side):
    model = X3D(**SMALL, classes=5).eval()
    x = torch.rand(1, 3, 5, px, px)
    x = model.blocks[1](model.blocks[0](x))
    assert x.shape == (1, 8, 5, side, side)
    assert model.blocks[2](x).shape == (1, 16, 5, (side + 1) // 2, (side + 1) // 2)


def test_width_rounding_is_that_of_the_mobile_networks():
    assert [_round_to_8(width) for width in (1, 3.4, 11.9, 12, 27, 36)] == [8, 8, 16, 16, 32, 40]


def test_a_fresh_model_learns_two_clips_by_heart():
    torch.manual_seed(0)
    model = X3D(**SMALL, classes=2, dropout=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x, labels = torch.rand(2, 3, 2, 32, 32), torch.tensor([0, 1])
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


def checkpoint(tmp_path, state, form):
    path = tmp_path / f"x3d.{form}"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model_state": state}, path)
    return path


@pytest.mark.parametrize("form", ["safetensors", "pyth"])
@pytest.mark.parametrize("head", ["plain", "x3d"])
def test_pretrained_weights_load_without_the_classifier(tmp_path, form, head):
    source = X3D(**SMALL, classes=400, head="x3d")
    randomise(source)
    path = checkpoint(tmp_path, source.state_dict(), form)
    model = X3D(**SMALL, classes=7, head=head)
    classifier = model.blocks[-1].proj.weight.clone()
    model.load_pretrained(path)
    own, given = model.state_dict(), source.state_dict()
    kept = "blocks.3." if head == "plain" else "blocks.3.proj."
    for name in own:
        if not name.startswith(kept):
            assert torch.equal(own[name], given[name]), name
    assert torch.equal(model.blocks[-1].proj.weight, classifier)


def test_a_checkpoint_without_batchnorm_step_counts_loads(tmp_path):
    state = X3D(**SMALL, classes=7).state_dict()
    path = checkpoint(tmp_path, {k: v for k, v in state.items() if "num_batches" not in k}, "safetensors")
    X3D(**SMALL, classes=7).load_pretrained(path)


def test_every_mismatch_is_reported_and_nothing_is_loaded(tmp_path):
    state = X3D(**SMALL, classes=7).state_dict()
    del state["blocks.0.norm.weight"], state["blocks.1.res_blocks.0.branch2.conv_a.weight"]
    state["blocks.0.conv.conv_t.weight"] = torch.zeros(9, 3, 1, 3, 3)
    state["blocks.9.surplus"] = torch.zeros(1)
    path = checkpoint(tmp_path, state, "safetensors")
    model = X3D(**SMALL, classes=7)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        model.load_pretrained(path)
    for part in (
        str(path),
        "4 mismatches",
        "missing blocks.0.norm.weight",
        "missing blocks.1.res_blocks.0.branch2.conv_a.weight",
        "surplus blocks.9.surplus",
        "blocks.0.conv.conv_t.weight is (9, 3, 1, 3, 3), the model has (8, 3, 1, 3, 3)",
    ):
        assert part in str(caught.value)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
