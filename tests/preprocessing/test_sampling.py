"""Frames are taken at even steps in time, whatever the frame rate does."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.sampling import choose, frame_number

clocks = st.lists(st.floats(0, 1e4, allow_nan=False), min_size=0, max_size=80).map(sorted)


def test_constant_rate_gives_the_segment_centres() -> None:
    assert choose(range(90), 16) == [int((i + 0.5) * 90 / 16) for i in range(16)]
    assert choose(range(16), 16) == list(range(16))
    assert choose(range(30), 1) == [15]


def test_variable_rate_is_sampled_in_time_not_by_count() -> None:
    # 10 frames in the first second, then 100 frames in the next one: half of the picks belong to each second.
    times = [*np.linspace(0, 1, 10, endpoint=False), *np.linspace(1, 2, 100, endpoint=False)]
    picked = [times[i] for i in choose(times, 8, end=2.0)]
    assert sum(time < 1 for time in picked) == 4
    assert np.abs(np.array(picked) - (np.arange(8) + 0.5) * 0.25).max() <= 0.1


def test_a_long_still_takes_its_neighbours_on_both_sides() -> None:
    times = [*range(10), *range(60, 70)]  # frame 9 is on screen from 9 to 60
    picked = choose(times, 6, end=70)
    assert len(set(picked)) == 6
    assert 9 in picked
    assert min(picked) < 9 < max(picked)


def test_end_of_the_last_frame_counts() -> None:
    assert choose([0, 1, 2, 3], 2, end=40) == [2, 3]
    assert choose([0, 1, 2, 3], 2) == [1, 3]


@given(clocks, st.integers(1, 40), st.one_of(st.none(), st.floats(0, 2e4)))
def test_positions_are_distinct_ascending_and_complete(times: list[float], frames: int, end: float | None) -> None:
    picked = choose(times, frames, end)
    assert len(picked) == min(frames, len(times))
    assert all(a < b for a, b in itertools.pairwise(picked))
    assert all(0 <= i < len(times) for i in picked)


@given(st.integers(2, 400), st.integers(1, 40), st.floats(0.001, 1e3), st.floats(-1e3, 1e3))
def test_a_constant_rate_does_not_depend_on_unit_or_start(count: int, frames: int, unit: float, start: float) -> None:
    plain = np.array(choose(range(count), frames))
    moved = np.array(choose(start + unit * np.arange(count), frames))
    assert np.abs(plain - moved).max() <= 1  # a centre on the border of two frames may round either way


@pytest.mark.parametrize(("times", "frames", "text"), [([0, 1], 0, "at least 1"), ([1, 0], 1, "ascending")])
def test_faults_are_named(times: list[int], frames: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        choose(times, frames)


def test_frame_numbers() -> None:
    names = {"00001_00042.jpg": 42, "7.png": 7, "frame-003b.jpg": 3, "face.jpg": None, "12": 12, "a1.b": 1}
    assert {name: frame_number(name) for name in names} == names
