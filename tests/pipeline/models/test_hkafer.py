import copy

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from pipeline.config import HkaferSettings
from pipeline.models.encoder import EncoderError
from pipeline.models.heka import HekaLinear
from pipeline.models.hkafer import Hkafer, parameter_counts, parameter_table

ROUTERS = ("none", "static", "global", "regional", "dual")


def make_model(encoder="vit_tiny_patch16_224", *, px=32, classes=3, depth=2, **more) -> Hkafer:
    torch.manual_seed(0)
    settings = HkaferSettings(encoder=encoder, encoder_args={"depth": depth}, **more)
    return Hkafer.from_settings(settings, classes, px)


def move_adapters(model: Hkafer) -> Hkafer:
    """Leave the zero start, so that adapters and routers matter."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".up." in name or name.endswith("embeddings"):
                p.normal_(std=0.5)
    return model


def total_loss(model, x) -> torch.Tensor:
    output = model(x)
    loss = output.logits.square().sum()
    return loss if output.extra_loss is None else loss + output.extra_loss


@pytest.mark.parametrize(
    ("encoder", "px", "width", "layers"),
    [
        ("vit_tiny_patch16_224", 32, 2 * 192, 4),
        ("vit_small_patch14_dinov2", 28, 2 * 384, 4),
        ("vit_small_patch14_reg4_dinov2", 28, 2 * 384, 4),
        ("vit_small_patch16_dinov3", 32, 2 * 384, 4),
        ("vit_base_patch16_siglip_224", 32, 768, 4),
        ("vit_base_patch16_clip_224", 32, 2 * 768, 4),
        ("eva02_base_patch14_224", 28, 2 * 768, 7),  # q, k, v apart and a gated feed-forward
    ],
)
def test_encoder_families_build_adapt_and_train(encoder, px, width, layers):
    model = make_model(encoder, px=px, depth=1)
    assert len(model.encoder.blocks[0].layers()) == layers
    output = model(torch.rand(2, 3, 2, px, px))
    assert output.logits.shape == (2, 3) and output.features.shape == (2, width)
    (output.logits.square().sum() + output.extra_loss).backward()
    ups = {name: p.grad.abs().sum() for name, p in model.named_parameters() if ".up." in name}
    assert len(ups) == 4 * layers and min(ups.values()) > 0


@pytest.mark.parametrize("router", ROUTERS)
def test_every_trainable_parameter_gets_a_gradient_in_one_backward(router):
    model = make_model(router=router)
    total_loss(model, torch.rand(2, 3, 1, 32, 32)).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(any(key in n for key in (".adapters.", ".router.", "head.")) for n in trained)
    assert [n for n, p in model.named_parameters() if not p.requires_grad and p.grad is not None] == []


def test_start_equals_the_frozen_encoder():
    model = make_model()
    x = torch.rand(2, 3, 1, 32, 32)
    adapted = model(x).features
    for block in model.encoder.blocks:
        for layer in block.layers().values():
            layer.merge(torch.zeros(4))
    assert torch.equal(adapted, model(x).features)


def test_video_logits_and_features_are_means_over_frames():
    model = move_adapters(make_model()).eval()
    x = torch.rand(2, 3, 4, 32, 32)
    whole = model(x)
    frames = [model(x[:, :, t : t + 1]) for t in range(4)]
    assert torch.allclose(whole.logits, torch.stack([f.logits for f in frames]).mean(0), atol=1e-5)
    assert torch.allclose(whole.features, torch.stack([f.features for f in frames]).mean(0), atol=1e-5)


def test_a_clip_does_not_depend_on_its_batch():
    model = move_adapters(make_model()).eval()
    x = torch.rand(3, 3, 2, 32, 32)
    assert torch.allclose(model(x).logits[1:2], model(x[1:2]).logits, atol=1e-5)


def test_pictures_are_normalised_as_the_encoder_wants():
    model = make_model("vit_base_patch16_clip_224", depth=1)
    assert torch.allclose(model.mean.flatten(), torch.tensor([0.4815, 0.4578, 0.4082]), atol=1e-4)
    seen = []
    model.encoder.patch_embed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(model.mean.view(1, 3, 1, 1, 1).expand(1, 3, 1, 32, 32))
    assert seen[0].abs().max() < 1e-6


def test_balance_term_and_stats_only_where_routed():
    model = move_adapters(make_model(balance=0.5))
    output = model(torch.rand(2, 3, 1, 32, 32))
    shares = [output.stats[f"router/share_s{s}"] for s in (4, 8, 16, 32)]
    assert torch.isclose(sum(shares), torch.tensor(1.0)) and output.extra_loss > 0
    assert "router/block01/entropy" in output.stats and not any(v.requires_grad for v in output.stats.values())


def test_without_router_there_is_no_extra_loss():
    output = make_model(router="none")(torch.rand(2, 3, 1, 32, 32))
    assert output.extra_loss is None and output.stats == {}


@pytest.mark.parametrize("router", ["none", "dual"])
def test_gradient_checkpointing_changes_no_gradient(router):
    plain = move_adapters(make_model(router=router))
    recomputed = copy.deepcopy(plain)
    calls = []
    for block in recomputed.encoder.blocks:
        block.checkpointing = True
        block.block.attn.register_forward_hook(lambda *_: calls.append(1))
    x = torch.rand(2, 3, 2, 32, 32)
    total_loss(plain, x).backward()
    total_loss(recomputed, x).backward()
    assert len(calls) == 4
    for (name, p), q in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-6), name


def test_checkpointing_is_a_setting():
    assert all(b.checkpointing for b in make_model(gradient_checkpointing=True).encoder.blocks)


def test_model_can_be_copied_after_a_step():
    model = make_model()
    total_loss(model, torch.rand(1, 3, 1, 32, 32)).backward()
    twin = copy.deepcopy(model)
    assert twin.encoder.blocks[0].routing is twin.encoder.blocks[0].layers()["attn.qkv"].routing
    assert twin.encoder.blocks[0].routing is not model.encoder.blocks[0].routing


@pytest.mark.parametrize("router", ROUTERS)
def test_data_parallel_needs_no_search_for_unused_parameters(router, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(make_model(router=router, gradient_checkpointing=True))
        for _ in range(2):
            total_loss(model, torch.rand(2, 3, 1, 32, 32)).backward()
    finally:
        torch.distributed.destroy_process_group()


def test_bf16_autocast_stays_close():
    model = move_adapters(make_model()).eval()
    x = torch.rand(2, 3, 1, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(x)
    exact = model(x)
    assert (rounded.logits.float() - exact.logits).norm() < 5e-2 * exact.logits.norm()
    assert torch.isfinite(rounded.extra_loss)


def test_learns_a_toy_task_through_the_frozen_encoder():
    model = make_model(classes=2)
    x = torch.zeros(16, 3, 2, 32, 32)
    labels = torch.arange(16) % 2
    x[labels == 0, :, :, :, ::4] = 1.0
    x[labels == 1, :, :, ::4] = 1.0
    x = (x + 0.3 * torch.rand_like(x)).clamp(0, 1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(12):
        optimizer.zero_grad()
        output = model(x)
        (torch.nn.functional.cross_entropy(output.logits, labels) + output.extra_loss).backward()
        optimizer.step()
    assert (model(x).logits.argmax(dim=1) == labels).all()


def test_vit_b_with_defaults_stays_below_its_parameter_budget():
    with torch.device("meta"):
        model = Hkafer.from_settings(HkaferSettings(), 7, 224)
    assert parameter_counts(model)["trainable"] <= 600_000


def test_parameter_table_lists_layers_and_totals():
    model = make_model()
    table = parameter_table(model)
    qkv = next(line.split() for line in table.splitlines() if line.startswith("blocks.0.attn.qkv"))
    expected = sum(p.numel() for p in model.encoder.blocks[0].layers()["attn.qkv"].adapters.parameters())
    assert qkv[1] == "576x192" and qkv[2:6] == ["4x4", "8x8", "16x16", "32x32"] and qkv[6] == f"{expected:,}"
    counts = parameter_counts(model)
    assert table.splitlines()[-1].startswith(f"trainable {counts['trainable']:,} of {counts['total']:,}")
    rows = [int(line.split()[-1].replace(",", "")) for line in table.splitlines()[1:-1]]
    assert sum(rows) == counts["trainable"]


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 2, 32, 32), (2, 3, 2, 48, 48)])
def test_wrong_input_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(B, 3, T, 32, 32\)"):
        make_model(depth=1)(torch.zeros(shape))


def test_encoder_without_target_layers_is_refused(monkeypatch):
    monkeypatch.setattr("pipeline.models.hkafer.TARGETS", ("nothing",))
    with pytest.raises(EncoderError, match="no linear layer named nothing"):
        make_model()


def test_layers_are_heka_linear_around_frozen_weights():
    model = make_model()
    for block in model.encoder.blocks:
        for layer in block.layers().values():
            assert isinstance(layer, HekaLinear) and not layer.base.weight.requires_grad
