from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from pipeline.models.encoder import EncoderError, create_encoder

ARGS = {"depth": 1}


def make_weights(path, name="vit_tiny_patch16_224", px=64, **args):
    """Save a whole timm model, classifier included, as users find it."""
    torch.manual_seed(1)
    model = timm.create_model(name, img_size=px, **ARGS, **args)
    save_file(model.state_dict(), path)
    return model


def test_unknown_name_lists_the_nearest():
    with pytest.raises(EncoderError, match=r"unknown encoder 'vit_tinny_patch16_224'.*vit_tiny_patch16_224"):
        create_encoder("vit_tinny_patch16_224", 64, args={})


@pytest.mark.parametrize(
    ("name", "px", "args", "message"),
    [
        ("resnet18", 64, {}, "resnet18"),
        ("vit_tiny_patch16_224", 100, ARGS, "100 is no multiple of the 16 px patches .* use 96 or 112"),
        ("vit_tiny_patch16_224", 8, ARGS, "use 16 or 32"),
        ("vit_tiny_patch16_224", 64, {"img_size": 96}, "img_size = 96 differs from the model's input of 64 px"),
        ("vit_tiny_patch16_224", 64, {"dept": 3}, "'dept'"),
        ("vit_tiny_patch16_224", 64, {"num_heads": 5}, "num_heads"),
        ("swin_tiny_patch4_window7_224", 64, {}, "no plain vision transformer"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_reason(name, px, args, message):
    with pytest.raises(EncoderError, match=message):
        create_encoder(name, px, args=args)


def test_same_image_size_in_args_is_fine():
    assert create_encoder("vit_tiny_patch16_224", 64, args={**ARGS, "img_size": 64}).num_prefix_tokens == 1


def test_weights_are_loaded_without_the_classifier(tmp_path):
    source = make_weights(tmp_path / "w.safetensors")
    encoder = create_encoder("vit_tiny_patch16_224", 64, args=ARGS, weights=str(tmp_path / "w.safetensors"))
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(encoder.eval().forward_features(x), source.eval().forward_features(x))


def test_position_embedding_is_resampled_to_another_image_size(tmp_path):
    source = make_weights(tmp_path / "w.safetensors", px=64)
    encoder = create_encoder("vit_tiny_patch16_224", 96, args=ARGS, weights=str(tmp_path / "w.safetensors"))
    assert encoder.pos_embed.shape == (1, 37, 192)
    assert torch.equal(encoder.pos_embed[:, 0], source.pos_embed[:, 0])
    assert torch.allclose(encoder.pos_embed[:, 1:].mean(1), source.pos_embed[:, 1:].mean(1), atol=5e-3)


def test_attention_pooling_is_loaded_but_not_kept(tmp_path):
    name = "vit_base_patch16_siglip_224"
    make_weights(tmp_path / "w.safetensors", name, px=32)
    encoder = create_encoder(name, 32, args=ARGS, weights=str(tmp_path / "w.safetensors"))
    assert encoder.attn_pool is None


def test_all_mismatches_are_reported_at_once(tmp_path):
    path = str(tmp_path / "w.safetensors")
    make_weights(path)
    state = load_file(path)
    del state["norm.bias"]
    state["blocks.7.mlp.fc1.bias"] = torch.zeros(3)
    state["blocks.0.mlp.fc1.bias"] = torch.zeros(5)
    save_file(state, path)
    with pytest.raises(EncoderError, match=r"w\.safetensors: 3 mismatches") as caught:
        create_encoder("vit_tiny_patch16_224", 64, args=ARGS, weights=path)
    for line in (
        "missing: norm.bias (192,)",
        "not in the encoder: blocks.7.mlp.fc1.bias (3,)",
        "shape of blocks.0.mlp.fc1.bias: file (5,), encoder (768,)",
    ):
        assert line in str(caught.value)


def test_unreadable_weights_are_named(tmp_path):
    with pytest.raises(EncoderError, match=r"absent\.safetensors: no such file"):
        create_encoder("vit_tiny_patch16_224", 64, args=ARGS, weights=str(tmp_path / "absent.safetensors"))
    (tmp_path / "torn.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(EncoderError, match=r"torn\.safetensors: not a safetensors file"):
        create_encoder("vit_tiny_patch16_224", 64, args=ARGS, weights=str(tmp_path / "torn.safetensors"))


@pytest.mark.real
def test_published_weights_load_at_another_image_size(real_data: Path) -> None:
    file = str(real_data / "weights" / "deit_tiny_patch16_224.safetensors")
    encoder = create_encoder("deit_tiny_patch16_224", 112, args={}, weights=file)
    published = load_file(file)
    assert torch.equal(encoder.blocks[11].mlp.fc2.weight, published["blocks.11.mlp.fc2.weight"])
    assert encoder.pos_embed.shape == (1, 50, 192)
