"""Augmentation: one draw per clip, repeatable, identity when everything is off."""

import torch

from pipeline.augment import augment, to_float
from pipeline.config import AugmentSettings

OFF = AugmentSettings(flip=0.0, min_area=1.0, jitter=0.0)


def clips(b: int = 4, t: int = 3, px: int = 24) -> torch.Tensor:
    still = torch.rand(b, 3, 1, px, px, generator=torch.Generator().manual_seed(0))
    return still.expand(b, 3, t, px, px).contiguous()


def draw(settings: AugmentSettings, seed: int = 1, out_px: int = 20) -> torch.Tensor:
    return augment(clips(), settings, out_px, torch.Generator().manual_seed(seed))


def test_frames_of_a_clip_share_the_draw_and_clips_do_not() -> None:
    out = draw(AugmentSettings(flip=0.5, min_area=0.3, jitter=0.4))
    assert out.shape == (4, 3, 3, 20, 20)
    assert torch.equal(out[:, :, 0], out[:, :, 2])
    same = clips()[:1].expand(4, -1, -1, -1, -1).contiguous()
    spread = augment(same, AugmentSettings(), 20, torch.Generator().manual_seed(1))
    assert not torch.allclose(spread[0], spread[1])


def test_repeatable_by_seed_and_within_range() -> None:
    settings = AugmentSettings(jitter=0.9)
    assert torch.equal(draw(settings), draw(settings))
    assert not torch.equal(draw(settings), draw(settings, seed=2))
    assert draw(settings).min() >= 0
    assert draw(settings).max() <= 1


def test_everything_off_is_identity_and_flip_mirrors() -> None:
    x = clips(px=20)
    assert torch.allclose(augment(x, OFF, 20, torch.Generator().manual_seed(0)), x, atol=1e-5)
    flipped = augment(x, OFF.model_copy(update={"flip": 1.0}), 20, torch.Generator().manual_seed(0))
    assert torch.allclose(flipped, x.flip(-1), atol=1e-5)


def test_to_float_moves_channels_first_and_scales() -> None:
    x = torch.zeros(2, 3, 4, 5, 3, dtype=torch.uint8)
    x[..., 1] = 255
    out = to_float(x)
    assert out.shape == (2, 3, 3, 4, 5)
    assert out[:, 1].eq(1).all()
    assert out[:, 0].eq(0).all()
