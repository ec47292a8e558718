"""HDF: assembly, settings, inputs."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.config import HdfSettings
from pipeline.models.dam import Dam
from pipeline.models.hdf import Hdf
from pipeline.models.output import ModelOutput
from pipeline.models.weights import WeightsError
from pipeline.models.x3d import X3D

SMALL = {"depths": (1, 2), "widths": (8, 16)}


def build(**changes) -> Hdf:
    return Hdf.from_settings(HdfSettings(**SMALL | changes), classes=7, frames=4)


def test_the_paper_model_has_a_dam_after_each_stage():
    model = Hdf.from_settings(HdfSettings(), classes=7, frames=16)
    assert sum(p.numel() for p in model.parameters()) == 2_007_481 + 4 * 4237
    assert [type(dam) for dam in model.dams] == [Dam] * 4


@pytest.mark.parametrize(("head", "width"), [("plain", 16), ("x3d", 2048)])
def test_output_is_the_classifier_of_the_pooled_features(head, width):
    model = build(head=head).eval()
    output = model(torch.rand(3, 3, 4, 32, 32))
    assert isinstance(output, ModelOutput)
    assert output.features.shape == (3, width) and output.logits.shape == (3, 7)
    assert output.extra_loss is None and output.stats == {}
    torch.testing.assert_close(model.backbone.blocks[-1].proj(output.features), output.logits)


def test_dropout_acts_between_features_and_classifier():
    model = build(dropout=0.9)
    torch.manual_seed(0)
    output = model(torch.rand(3, 3, 4, 32, 32))
    assert (output.features != 0).float().mean() > 0.5
    assert (model.backbone.blocks[-1].proj(output.features) - output.logits).abs().max() > 1e-4


def test_each_dam_gates_the_output_of_its_stage():
    model = build().eval()
    x = torch.rand(1, 3, 4, 32, 32)
    expected = model.backbone.blocks[0](x)
    for stage, dam in zip(model.backbone.blocks[1:3], model.dams, strict=True):
        expected = dam(stage(expected))
    torch.testing.assert_close(model(x).features, expected.mean(dim=(2, 3, 4)))


def test_without_dam_it_is_plain_x3d_and_takes_any_length():
    model = build(dam=False).eval()
    x = torch.rand(1, 3, 6, 32, 32)
    torch.testing.assert_close(model(x).logits, model.backbone(x))
    assert not any(isinstance(module, Dam) for module in model.modules())


def test_the_variant_reaches_the_dams():
    assert [dam.temporal.variant for dam in build(variant="released").dams] == ["released"] * 2


def test_a_wrong_number_of_frames_is_refused():
    with pytest.raises(ValueError, match="built for 4 frames and got 8"):
        build()(torch.rand(1, 3, 8, 32, 32))


def test_kinetics_weights_are_loaded_and_shift_the_inputs(tmp_path):
    path = tmp_path / "x3d.safetensors"
    source = X3D(**SMALL, classes=400, head="x3d")
    save_file(source.state_dict(), path)
    model = build(weights=str(path), dam=False).eval()
    stem = model.backbone.blocks[0]
    assert torch.equal(stem.conv.conv_t.weight, source.blocks[0].conv.conv_t.weight)
    x = torch.rand(1, 3, 4, 32, 32)
    torch.testing.assert_close(model(x).logits, model.backbone((x - 0.45) / 0.225))


def test_a_missing_weights_file_only_matters_when_it_is_loaded(tmp_path):
    settings = HdfSettings(**SMALL, weights=str(tmp_path / "gone.pth"))
    with pytest.raises(WeightsError, match=r"gone\.pth"):
        Hdf.from_settings(settings, classes=7, frames=4)
    assert Hdf.from_settings(settings, classes=7, frames=4, pretrained=False).normalise


def test_bf16_autocast_trains_every_parameter():
    torch.manual_seed(0)
    model = build()
    nn.init.ones_(model.backbone.blocks[1].res_blocks[0].branch2.norm_c.weight)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.rand(4, 3, 4, 32, 32))
    output.logits.float().square().sum().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []


def test_state_dict_round_trip_is_exact():
    torch.manual_seed(0)
    model, copy = build().eval(), build().eval()
    copy.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 4, 32, 32)
    assert torch.equal(model(x).logits, copy(x).logits)


def test_compiles_without_graph_breaks():
    model = build().eval()
    x = torch.rand(2, 3, 4, 32, 32)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x).logits, model(x).logits)
