"""Face geometry: five-point templates, the similarity transform onto them, and one warp from the source."""

import cv2
import numpy as np

ARCFACE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Eyes, nose tip, mouth corners in a 112 px crop (ArcFace, arXiv 1801.07698, reference release)."""
LOOSE_SCALE = 0.78
LOOSE_SHIFT_Y = -0.02
"""`loose` is the ArcFace template about the crop's centre times LOOSE_SCALE, then moved by this share of the side."""

MIN_SPREAD_PX = 1.0
"""Landmarks whose root-mean-square distance from their mean is below this carry no direction."""
MIN_FIT = 0.5
"""Least correlation with the template: a full profile keeps 0.78, a mirrored or scrambled set 0.2."""
SHARPNESS_PX = 112

_UNIT = ARCFACE_112 / 112
TEMPLATES = {
    "arcface": _UNIT,
    "loose": (_UNIT - 0.5) * LOOSE_SCALE + 0.5 + np.array([0, LOOSE_SHIFT_Y]),
}
"""Where the landmarks land, as shares of the crop's side: float64 (5, 2)."""


class DegenerateFaceError(ValueError):
    """Landmarks that define no sensible crop."""


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation, uniform scale and shift that bring `points` closest to `target` (Umeyama 1991).

    In two dimensions, and without reflection, the closed form is one complex regression:
    a = <z - mean, w - mean> / |z - mean|^2.

    Args:
        points: (N, 2) source pixels.
        target: (N, 2) crop pixels.

    Returns:
        float64 (2, 3) matrix from source to crop.

    Raises:
        DegenerateFaceError: points not finite, nearly coincident, or unlike the target under any rotation.
    """
    z, w = (np.asarray(p, np.float64) @ np.array([1, 1j]) for p in (points, target))
    if not np.isfinite(z).all():
        raise DegenerateFaceError("landmarks are not finite numbers")
    z_centred, w_centred = z - z.mean(), w - w.mean()
    energy = np.vdot(z_centred, z_centred).real
    if energy < len(z) * MIN_SPREAD_PX**2:
        raise DegenerateFaceError(f"landmarks lie within {np.sqrt(energy / len(z)):.2f} px of one point")
    product = np.vdot(z_centred, w_centred)
    fit = abs(product) / np.sqrt(energy * np.vdot(w_centred, w_centred).real)
    if fit < MIN_FIT:
        raise DegenerateFaceError(f"landmarks do not look like a face (fit {fit:.2f}, needs {MIN_FIT})")
    a = product / energy
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def looks_like_face(points: np.ndarray) -> bool:
    """Whether five landmarks define a crop: `similarity` accepts them."""
    try:
        similarity(points, ARCFACE_112)
    except DegenerateFaceError:
        return False
    return True


def warp(image: np.ndarray, matrix: np.ndarray, crop_px: int) -> np.ndarray:
    """Cut the crop that `matrix` describes out of the source, resampling once.

    Bilinear sampling skips source pixels when the face is larger than its crop, so the region is first
    low-pass filtered (Gaussian, sigma = (shrink - 1) / 2 source pixels). Beyond the image the crop is black.

    Args:
        image: uint8 (H, W, 3).
        matrix: float64 (2, 3), source to crop.

    Raises:
        DegenerateFaceError: the crop lies outside the image.
    """
    shrink = 1 / np.hypot(*matrix[:, 0])
    sigma = max(0.0, (shrink - 1) / 2)
    corners = np.array([[0, 0], [crop_px, 0], [crop_px, crop_px], [0, crop_px]], np.float64)
    outline = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    margin = int(np.ceil(4 * sigma)) + 2
    x0, y0 = np.maximum(np.floor(outline.min(0)).astype(int) - margin, 0)
    x1, y1 = np.minimum(np.ceil(outline.max(0)).astype(int) + margin, [image.shape[1], image.shape[0]])
    if x1 - x0 < 1 or y1 - y0 < 1:
        raise DegenerateFaceError("the aligned crop lies outside the image")
    region = image[y0:y1, x0:x1]
    if sigma > 0:
        region = cv2.GaussianBlur(region, (0, 0), sigma)
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ [x0, y0]
    return cv2.warpAffine(region, moved, (crop_px, crop_px), flags=cv2.INTER_LINEAR)


def centre_square(image: np.ndarray, crop_px: int) -> np.ndarray:
    """The largest centred square, resized to the crop."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    method = cv2.INTER_AREA if side > crop_px else cv2.INTER_LINEAR
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    return cv2.resize(square, (crop_px, crop_px), interpolation=method)


def sharpness(crop: np.ndarray) -> float:
    """Variance of the Laplacian over the variance of the grey values, at 112 px: free of size and contrast."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey = cv2.resize(grey, (SHARPNESS_PX, SHARPNESS_PX), interpolation=cv2.INTER_AREA)
    contrast = float(grey.var())
    return float(cv2.Laplacian(grey, cv2.CV_32F).var()) / contrast if contrast > 1e-6 else 0.0
