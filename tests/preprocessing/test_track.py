"""One face per clip: linking, choosing, bridging and smoothing, on faces whose course is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.faces.detection import Detection
from preprocessing.faces.track import affinity, borrow_nearest, bridge_gaps, link, pick, smooth


def face(x: float, y: float = 100, side: float = 40, score: float = 0.9) -> Detection:
    """A square face around x, y."""
    half = side / 2
    points = np.array([[-0.2, -0.1], [0.2, -0.1], [0, 0.1], [-0.15, 0.25], [0.15, 0.25]]) * side + [x, y]
    return Detection(np.array([x - half, y - half, x + half, y + half], float), score, points)


def courses(tracks) -> list[dict[int, float]]:
    return sorted(({n: d.centre[0] for n, d in track.detections.items()} for track in tracks), key=str)


def test_two_faces_stay_two_tracks_whatever_the_order_of_detections() -> None:
    frames = [[face(100 + 5 * n), face(300 - 5 * n)][:: 1 if n % 2 else -1] for n in range(6)]
    assert courses(link(frames)) == [{n: 100 + 5 * n for n in range(6)}, {n: 300 - 5 * n for n in range(6)}]


def test_the_better_pair_wins() -> None:
    tracks = link([[face(100)], [face(125), face(102)]])
    assert courses(tracks) == [{0: 100, 1: 102}, {1: 125}]


def test_a_face_that_comes_back_continues_its_track() -> None:
    [track] = link([[face(100)], [], [], [face(110)]])
    assert sorted(track.detections) == [0, 3]


@pytest.mark.parametrize("other", [face(100 + 41), face(100, side=81), face(100, side=19)], ids=str)
def test_what_is_too_far_or_of_another_size_is_another_face(other: Detection) -> None:
    assert affinity(face(100), other) is None
    assert len(link([[face(100)], [other]])) == 2


def test_no_detection_gives_no_track() -> None:
    assert link([[], []]) == []
    assert pick([], "longest", 100, 100) is None


def test_rules_choose_different_faces() -> None:
    small_long = [face(50, side=30)] * 5
    large_short = [face(250, side=80)] * 3
    central = [face(400, side=30)] * 2
    frames = [[f for f, n in zip(row, (5, 3, 2), strict=True) if i < n] for i, row in enumerate(
        [(small_long[0], large_short[0], central[0])] * 5
    )]  # fmt: skip
    tracks = link(frames)

    def chosen(rule) -> float:
        return pick(tracks, rule, 800, 200).last.centre[0]

    assert (chosen("longest"), chosen("largest"), chosen("central")) == (50, 250, 400)


def test_longest_prefers_the_larger_of_equals() -> None:
    assert pick(link([[face(50, side=30), face(250, side=60)]] * 3), "longest", 400, 200).last.centre[0] == 250


POINTS = face(0).landmarks


def test_gaps_are_interpolated_in_time_not_in_frame_number() -> None:
    filled = bridge_gaps([POINTS, None, POINTS + 10], [0.0, 30.0, 40.0], max_gap_frames=1)
    np.testing.assert_allclose(filled[1], POINTS + 7.5)


def test_gaps_are_bridged_up_to_the_limit_and_only_between_found_frames() -> None:
    landmarks = [None, POINTS, None, None, POINTS, None, None, None, POINTS, None]
    filled = bridge_gaps(landmarks, [float(i) for i in range(10)], max_gap_frames=2)
    assert [points is not None for points in filled] == [
        False,
        True,
        True,
        True,
        True,
        False,
        False,
        False,
        True,
        False,
    ]
    assert landmarks[2] is None


def test_a_gap_without_time_takes_the_middle() -> None:
    np.testing.assert_allclose(bridge_gaps([POINTS, None, POINTS + 10], [5.0, 5.0, 5.0], 1)[1], POINTS + 5)


def test_missing_frames_borrow_from_the_nearest_in_time() -> None:
    borrowed = borrow_nearest([None, POINTS, None, POINTS + 9, None], [0.0, 10.0, 30.0, 35.0, 90.0])
    assert [points[0, 0] - POINTS[0, 0] for points in borrowed] == [0, 0, 9, 9, 9]
    assert borrow_nearest([None, None], [0.0, 1.0]) == [None, None]


@given(st.floats(0, 0.99), st.integers(1, 12))
def test_smoothing_keeps_a_face_that_stands_still(strength: float, count: int) -> None:
    for points in smooth([POINTS] * count, strength):
        np.testing.assert_allclose(points, POINTS, atol=1e-9)


def test_smoothing_calms_jitter_without_lag() -> None:
    rng = np.random.default_rng(0)
    course = np.stack([POINTS + np.array([x, 0]) for x in np.linspace(0, 60, 31)])
    noisy = course + rng.normal(0, 2, course.shape)
    errors = (np.stack(smooth(list(noisy), 0.7)) - course)[5:-5]
    before = (noisy - course)[5:-5]
    assert errors.std() < 0.55 * before.std()
    assert abs(errors[..., 0].mean()) < 0.5


def test_smoothing_leaves_unknown_frames_unknown_and_weighs_by_distance() -> None:
    smoothed = smooth([POINTS, None, POINTS + 8], 0.5)
    assert smoothed[1] is None
    np.testing.assert_allclose(smoothed[0], POINTS + 8 * 0.25 / 1.25)
