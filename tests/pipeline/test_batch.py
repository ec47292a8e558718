"""Batches: frame positions, decoding, order by seed and epoch, each row once."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch import ClipBatches, decode_crops, segment_positions, steps_per_epoch
from pipeline.config import DataSettings

CLASSES = ["happy", "sad"]


class Rows:
    """A share that holds its rows in memory and hands them out in an order of its own."""

    def __init__(self, n: int, frames: int = 6) -> None:
        self.n, self.frames = n, frames

    def iter_batches(self, *, batch_size: int, batch_format: str, **_: object):
        order = np.random.default_rng().permutation(self.n)
        for i in range(0, self.n, batch_size):
            chunk = order[i : i + batch_size]
            video = np.zeros((len(chunk), self.frames, 8, 8, 3), np.uint8)
            video[..., 0] = chunk[:, None, None, None]
            video[..., 1] = np.arange(self.frames)[None, :, None, None]
            yield {
                "sample_id": np.asarray([f"{k:03d}" for k in chunk], object),
                "label": np.asarray([CLASSES[k % 2] for k in chunk], object),
                "video": video,
            }


def batches(n: int, *, cached: bool, shuffle: bool, frames: int = 3) -> ClipBatches:
    settings = DataSettings(batch_size=4, frames=frames)
    return ClipBatches(Rows(n), CLASSES, settings, cached=cached, shuffle=shuffle, seed=7)


@given(stored=st.integers(1, 60), wanted=st.integers(1, 60), seed=st.none() | st.integers(0, 9))
def test_positions_rise_stay_inside_and_cover(stored: int, wanted: int, seed: int | None) -> None:
    rng = None if seed is None else np.random.default_rng(seed)
    positions = segment_positions(stored, wanted, rng)
    assert len(positions) == wanted
    assert (np.diff(positions) >= 0).all()
    assert positions[0] >= 0
    assert positions[-1] < stored
    if stored >= wanted and seed is None:
        assert len(set(positions.tolist())) == wanted
    if stored == wanted:
        assert positions.tolist() == list(range(stored))


def test_crops_decode_to_rgb_of_the_side() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[..., 2] = 200
    data = cv2.imencode(".png", picture)[1].tobytes()
    clip = decode_crops([data, data], 16)
    assert clip.shape == (2, 16, 16, 3)
    assert clip[..., 0].min() == 200
    assert clip[..., 2].max() == 0
    with pytest.raises(ValueError, match="crop 1 of 2 is no readable JPEG"):
        decode_crops([data, b"junk"], 16)


@pytest.mark.parametrize("cached", [True, False])
def test_evaluation_yields_each_row_once_with_its_label(cached: bool) -> None:
    seen = list(batches(10, cached=cached, shuffle=False).epoch(0))
    ids = [i for batch in seen for i in batch.sample_id]
    assert sorted(ids) == [f"{k:03d}" for k in range(10)]
    for batch in seen:
        assert batch.label_B.tolist() == [int(i) % 2 for i in batch.sample_id]
        assert batch.video_BTHWC[:, 0, 0, 0, 0].tolist() == [int(i) for i in batch.sample_id]
        assert batch.video_BTHWC[0, :, 0, 0, 1].tolist() == [1, 3, 5]


def test_cached_training_order_is_a_function_of_seed_and_epoch() -> None:
    def order(epoch: int) -> list[str]:
        return [i for batch in batches(9, cached=True, shuffle=True).epoch(epoch) for i in batch.sample_id]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert len(order(0)) == 8
    assert len(set(order(0))) == 8


def test_short_batch_is_kept_only_when_it_is_the_only_one() -> None:
    assert [len(b.sample_id) for b in batches(3, cached=True, shuffle=True).epoch(0)] == [3]
    assert [len(b.sample_id) for b in batches(9, cached=True, shuffle=True).epoch(0)] == [4, 4]
    assert steps_per_epoch(3, 1, 4) == 1
    assert steps_per_epoch(9, 1, 4) == 2
    assert steps_per_epoch(16, 2, 4) == 2
