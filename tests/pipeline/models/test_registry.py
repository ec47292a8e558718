import pytest
import torch

from pipeline.config import HdfSettings, HkaferSettings
from pipeline.models.output import ModelOutput
from pipeline.models.registry import build_model


@pytest.mark.parametrize(
    "settings",
    [
        HdfSettings(depths=(1, 1), widths=(8, 16)),
        HkaferSettings(encoder="vit_tiny_patch16_224", encoder_args={"depth": 1}),
    ],
    ids=lambda s: s.name,
)
def test_models_share_one_interface(settings):
    model = build_model(settings, classes=5, frames=4, image_px=32)
    output = model(torch.rand(2, 3, 4, 32, 32))
    assert isinstance(output, ModelOutput)
    assert output.logits.shape == (2, 5) and output.features.shape[0] == 2


def test_foreign_settings_are_refused():
    with pytest.raises(ValueError, match="no model for settings of type dict"):
        build_model({"name": "hdf"}, classes=5, frames=4, image_px=32)
