"""Templates, the similarity transform and the warp, against scikit-image and against pictures with known points."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.transform import SimilarityTransform

from preprocessing.faces.align import (
    ARCFACE_112,
    TEMPLATES,
    DegenerateFaceError,
    centre_square,
    looks_like_face,
    sharpness,
    similarity,
    warp,
)


def placed(scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    """The ArcFace points after a similarity."""
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ARCFACE_112 @ (scale * rotation).T + shift


@given(st.floats(0.1, 20), st.floats(-180, 180), st.floats(-2000, 2000), st.floats(-2000, 2000), st.integers(0, 99))
def test_agrees_with_scikit_image_on_noisy_faces(scale, degrees, x, y, seed) -> None:
    noise = np.random.default_rng(seed).normal(0, 3 * scale, (5, 2))
    points = placed(scale, degrees, (x, y)) + noise
    reference = SimilarityTransform.from_estimate(points, ARCFACE_112)
    np.testing.assert_allclose(similarity(points, ARCFACE_112), reference.params[:2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("degrees", [0, 30, 90, 180, -135])
def test_brings_a_face_exactly_onto_the_template(degrees: float) -> None:
    points = placed(3.3, degrees, (700, 400))
    matrix = similarity(points, ARCFACE_112)
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], ARCFACE_112, atol=1e-9)


BAD_LANDMARKS = {
    "not finite": np.full((5, 2), np.nan),
    "within 0.00 px": np.full((5, 2), 50.0),
    "do not look like a face": ARCFACE_112 * [-1, 1],
}


@pytest.mark.parametrize("message", BAD_LANDMARKS)
def test_refuses_landmarks_that_define_no_crop(message: str) -> None:
    with pytest.raises(DegenerateFaceError, match=message):
        similarity(BAD_LANDMARKS[message], ARCFACE_112)
    assert not looks_like_face(BAD_LANDMARKS[message])


def test_accepts_a_full_profile() -> None:
    profile = (ARCFACE_112 - 56) * [0.05, 1] + 56
    assert looks_like_face(profile)


def test_loose_shows_more_around_the_same_points() -> None:
    tight, loose = TEMPLATES["arcface"], TEMPLATES["loose"]
    matrix = similarity(tight * 224, loose * 224)
    np.testing.assert_allclose(tight * 224 @ matrix[:, :2].T + matrix[:, 2], loose * 224, atol=1e-9)
    assert np.ptp(loose, 0)[1] < 0.8 * np.ptp(tight, 0)[1]
    chin = 0.56 * (loose[3, 1] - loose[0, 1]) + loose[3, 1]  # the chin is about so far below the mouth
    assert chin < 0.95


@pytest.mark.parametrize("size", [(1000, 800), (200, 160)], ids=["shrinking", "enlarging"])
@pytest.mark.parametrize("degrees", [0, 25, -90])
def test_landmarks_land_on_the_template(size: tuple[int, int], degrees: float) -> None:
    """Bright dots at the landmarks come out where the template says."""
    height, width = size
    points = placed(height / 300, degrees, (0, 0))
    points += np.array([width, height]) / 2 - points.mean(0)
    crop_px = 160
    target = TEMPLATES["loose"] * crop_px
    matrix = similarity(points, target)
    for point, wanted in zip(points, target, strict=True):
        image = np.zeros((height, width, 3), np.uint8)
        rows, columns = np.mgrid[:height, :width]
        dot = np.exp(-((columns - point[0]) ** 2 + (rows - point[1]) ** 2) / (2 * (height / 100) ** 2))
        image[..., 0] = np.rint(dot * 255)
        crop = warp(image, matrix, crop_px)[..., 0].astype(float)
        found = np.array([(crop.sum(0) * np.arange(crop_px)).sum(), (crop.sum(1) * np.arange(crop_px)).sum()])
        assert np.abs(found / crop.sum() - wanted).max() < 0.3


def test_strong_shrinking_does_not_alias() -> None:
    """A pattern finer than the crop can show turns grey; bare bilinear sampling would show false stripes."""
    image = np.zeros((1200, 1200, 3), np.uint8)
    image[:, ::2] = 255
    matrix = np.array([[0.1, 0, 0.03], [0, 0.1, 0]])
    ours = warp(image, matrix, 112)
    naive = cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_LINEAR)
    assert naive.std() > 20 or abs(naive.mean() - 127.5) > 20
    assert ours.std() < 4
    assert abs(ours.mean() - 127.5) < 4


def test_the_region_that_is_cut_out_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    matrix = similarity(placed(1.0, 17, (150, 90)), ARCFACE_112)
    whole = cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_LINEAR)
    assert np.abs(warp(image, matrix, 112).astype(int) - whole).max() <= 2  # OpenCV rounds coordinates to 1/32 px


def test_beyond_the_picture_is_black_and_far_outside_is_refused() -> None:
    image = np.full((100, 100, 3), 200, np.uint8)
    crop = warp(image, np.array([[1.0, 0, 50], [0, 1.0, 0]]), 100)
    assert not crop[:, :49].any() and (crop[:, 51:] == 200).all()
    with pytest.raises(DegenerateFaceError, match="outside the image"):
        warp(image, np.array([[1.0, 0, 500], [0, 1.0, 0]]), 100)


@pytest.mark.parametrize("height, width", [(100, 300), (301, 100), (50, 50)])
def test_centre_square(height: int, width: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image[top : top + side, left : left + side] = 90
    crop = centre_square(image, 64)
    assert crop.shape == (64, 64, 3)
    assert (crop == 90).all()


def test_sharpness_falls_with_blur_and_ignores_contrast_and_size() -> None:
    rng = np.random.default_rng(1)
    picture = cv2.GaussianBlur(rng.integers(0, 255, (224, 224, 3), np.uint8), (0, 0), 3)
    picture = cv2.normalize(picture, None, 20, 235, cv2.NORM_MINMAX)
    blurred = cv2.GaussianBlur(picture, (0, 0), 4)
    assert sharpness(blurred) < 0.5 * sharpness(picture)
    assert sharpness((picture * 0.5).astype(np.uint8)) == pytest.approx(sharpness(picture), rel=0.05)
    assert sharpness(cv2.resize(picture, (448, 448))) == pytest.approx(sharpness(picture), rel=0.3)
    assert sharpness(np.full((64, 64, 3), 80, np.uint8)) == 0
