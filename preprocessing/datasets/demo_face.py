"""A face that can show seven expressions: landmark-driven warps of scikit-image's public-domain portrait.

Coordinates are pixels of a square canvas of FACE_PX. A displacement says where landmarks move; groups of landmarks each
spread their displacement by Gaussian interpolation, anchored where the face must hold still.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

FACE_PX = 256
CROP = (slice(0, 220), slice(110, 330))
"""Head and shoulders in skimage.data.astronaut(), rows and columns."""
RIDGE = 0.03
"""Softens the interpolation: neighbouring landmarks that disagree bend the skin instead of tearing it."""
INVERSION_STEPS = 3
MOUTH_ROWS = slice(140, 220)
"""Where a mouth can be on the canvas: only there is painted."""

_MEASURED_ON_PX = 1092
_LANDMARKS = {
    "brow_l": [(392, 448), (440, 438), (515, 458)],
    "brow_r": [(635, 465), (700, 457), (765, 476)],
    "lid_l_up": [(435, 487), (460, 482), (485, 490)],
    "lid_l_low": [(437, 516), (463, 521), (487, 517)],
    "lid_r_up": [(655, 500), (683, 494), (712, 501)],
    "lid_r_low": [(657, 528), (683, 533), (712, 529)],
    "eye_ends": [(413, 497), (502, 512), (634, 518), (741, 517)],
    "bridge": [(570, 490)],
    "nose": [(568, 630)],
    "wings": [(515, 640), (628, 642)],
    "cheeks": [(420, 610), (720, 615)],
    "folds": [(447, 675), (690, 680)],
    "corners": [(466, 694), (672, 698)],
    "lip_up": [(515, 691), (565, 694), (620, 692)],
    "lip_up_in": [(515, 706), (565, 711), (620, 707)],
    "lip_low_in": [(520, 735), (565, 742), (615, 735)],
    "lip_low": [(510, 757), (562, 772), (620, 757)],
    "chin": [(565, 880)],
    "jaw": [(385, 760), (740, 760)],
    "hair": [(420, 390), (500, 405), (580, 415), (660, 420), (740, 440)],
    "neck": [(420, 900), (560, 960), (700, 920)],
}
LANDMARKS = {name: np.array(points, np.float64) * FACE_PX / _MEASURED_ON_PX for name, points in _LANDMARKS.items()}
MIDLINE_X = float(LANDMARKS["nose"][0, 0])

_EYES = ("lid_l_up", "lid_l_low", "lid_r_up", "lid_r_low", "eye_ends")
GROUPS = (
    (11.0, ("brow_l", "brow_r"), (*_EYES, "bridge", "hair")),
    (5.5, _EYES, ("brow_l", "brow_r", "bridge")),
    (13.0, ("cheeks", "nose", "wings"), (*_EYES, "corners", "lip_up", "bridge")),
    (13.0, ("corners", "lip_up", "lip_low", "chin", "jaw", "folds"), ("wings", "nose", "cheeks", "neck")),
    (4.5, ("lip_up_in", "lip_low_in"), ("corners",)),
)
"""Reach in pixels, landmarks that move, landmarks that hold still."""

Displacement = dict[str, object]
_CLOSED: Displacement = {
    "corners": [(6, 5), (-6, 5)],
    "lip_up": [(1, 2), (0, 2.2), (-1, 2)],
    "lip_low": [(1, -3), (0, -3.5), (-1, -3)],
    "lip_up_in": [(0, 1.6), (0, 1.8), (0, 1.6)],
    "lip_low_in": [(0, -2.8), (0, -3.0), (0, -2.8)],
    "folds": [(3, 1), (-3, 1)],
    "cheeks": (0, 1.5),
}
EXPRESSIONS: dict[str, Displacement] = {
    "neutral": _CLOSED,
    "happy": {
        "corners": [(-4, -4), (4, -4)],
        "lip_up": [(-1, -1), (0, 0), (1, -1)],
        "lip_low": [(-1, 2), (0, 4), (1, 2)],
        "lip_low_in": [(0, 1), (0, 1.5), (0, 1)],
        "cheeks": (0, -3.5),
        "folds": [(-3, -3), (3, -3)],
        "lid_l_low": (0, -2),
        "lid_r_low": (0, -2),
        "lid_l_up": (0, 0.5),
        "lid_r_up": (0, 0.5),
        "brow_l": (0, -1),
        "brow_r": (0, -1),
    },
    "sad": _CLOSED
    | {
        "corners": [(4, 9), (-4, 9)],
        "lip_low": [(1, -2), (0, -4), (-1, -2)],
        "lip_up": [(1, 3), (0, 1), (-1, 3)],
        "chin": (0, -2),
        "folds": [(2, 5), (-2, 5)],
        "brow_l": [(0, 3.5), (0, 0), (2, -6)],
        "brow_r": [(-2, -6), (0, 0), (0, 3.5)],
        "lid_l_up": [(0, 1.8), (0, 1.5), (0, 0.5)],
        "lid_r_up": [(0, 0.5), (0, 1.5), (0, 1.8)],
    },
    "angry": _CLOSED
    | {
        "corners": [(8, 8), (-8, 8)],
        "lip_up": [(2, 3.5), (0, 4), (-2, 3.5)],
        "lip_low": [(2, -4.2), (0, -4.8), (-2, -4.2)],
        "chin": (0, -2),
        "wings": [(-1.5, -1), (1.5, -1)],
        "brow_l": [(0, -3), (2, 3), (5, 7)],
        "brow_r": [(-5, 7), (-2, 3), (0, -3)],
        "lid_l_up": [(0, 0.6), (0, 1.6), (0, 2.2)],
        "lid_r_up": [(0, 2.2), (0, 1.6), (0, 0.6)],
        "lid_l_low": (0, -1),
        "lid_r_low": (0, -1),
    },
    "surprise": {
        "corners": [(10, 7), (-10, 7)],
        "lip_up": [(2, -1), (0, -2.5), (-2, -1)],
        "lip_low": [(2, 12), (0, 14), (-2, 12)],
        "lip_up_in": [(0, -1), (0, -1.5), (0, -1)],
        "lip_low_in": [(0, 4), (0, 5), (0, 4)],
        "chin": (0, 11),
        "jaw": [(3, 4), (-3, 4)],
        "folds": [(4, 4), (-4, 4)],
        "brow_l": [(0, -4), (0, -5.5), (0, -5)],
        "brow_r": [(0, -5), (0, -5.5), (0, -4)],
        "lid_l_up": (0, -2.6),
        "lid_r_up": (0, -2.6),
        "lid_l_low": (0, 1.2),
        "lid_r_low": (0, 1.2),
    },
    "disgust": {
        "corners": [(3, 5), (-3, 5)],
        "lip_up": [(0, -3.5), (0, -4.5), (0, -3.5)],
        "lip_up_in": [(0, 0.8), (0, 1), (0, 0.8)],
        "lip_low": [(0, -1), (0, 0), (0, -1)],
        "lip_low_in": [(0, -1.5), (0, -1.8), (0, -1.5)],
        "nose": (0, -2.5),
        "wings": [(-2, -3), (2, -3)],
        "cheeks": (0, -2.5),
        "folds": [(-1, -2), (1, -2)],
        "brow_l": [(0, 2), (1, 3.5), (3, 5)],
        "brow_r": [(-3, 5), (-1, 3.5), (0, 2)],
        "lid_l_low": (0, -2.4),
        "lid_r_low": (0, -2.4),
        "lid_l_up": (0, 1.6),
        "lid_r_up": (0, 1.6),
    },
    "fear": {
        "corners": [(-5, 5), (5, 5)],
        "lip_up": [(-1, 0), (0, 1), (1, 0)],
        "lip_low": [(-2, 6), (0, 6), (2, 6)],
        "lip_low_in": [(0, 1.5), (0, 1.5), (0, 1.5)],
        "chin": (0, 5),
        "jaw": [(-1, 1), (1, 1)],
        "folds": [(-4, 4), (4, 4)],
        "brow_l": [(1, -2), (2, -4), (4, -6.5)],
        "brow_r": [(-4, -6.5), (-2, -4), (-1, -2)],
        "lid_l_up": (0, -2.4),
        "lid_r_up": (0, -2.4),
        "lid_l_low": (0, 1.4),
        "lid_r_low": (0, 1.4),
    },
}
"""Where landmarks move, from the portrait's own smile; one vector for all points of a name, or one each."""
BLINK: Displacement = {
    "lid_l_up": (0, 6.5),
    "lid_r_up": (0, 6.5),
    "lid_l_low": (0, -1.0),
    "lid_r_low": (0, -1.0),
}

_SEAM, _CAVITY = (120, 62, 58), (42, 14, 16)
MOUTH = dict.fromkeys(("neutral", "sad", "angry"), (_SEAM, 0.85)) | {
    "happy": (_SEAM, 0.0),
    "surprise": (_CAVITY, 1.0),
    "disgust": (_CAVITY, 0.25),
    "fear": (_CAVITY, 0.35),
}
"""What is seen between the lips: RGB colour and how much it covers the portrait's teeth."""


@dataclass(frozen=True)
class Pose:
    """An expression ready to be mixed: displacement field (FACE_PX, FACE_PX, 2) and the mouth's inside."""

    field: np.ndarray
    colour: np.ndarray
    cover: float

    def mix(self, other: "Pose", weight: float) -> "Pose":
        """This pose with `weight` (0..1 and a little beyond) of the other."""
        return Pose(
            self.field + weight * (other.field - self.field),
            self.colour + min(weight, 1.0) * (other.colour - self.colour),
            float(np.clip(self.cover + weight * (other.cover - self.cover), 0, 1)),
        )


def pose(name: str, left: float = 1.0, right: float = 1.0) -> Pose:
    """Pose of an expression; `left` and `right` scale the two halves of the face (image left and right)."""
    colour, cover = MOUTH[name]
    return Pose(displacement_field(EXPRESSIONS[name], left, right), np.array(colour, np.float64), cover)


def displacement_field(displacement: Displacement, left: float = 1.0, right: float = 1.0) -> np.ndarray:
    """Spread the displacement of landmarks over the canvas: float32 (FACE_PX, FACE_PX, 2), x and y."""
    field = np.zeros((FACE_PX, FACE_PX, 2))
    for (_, names, _), spread in zip(GROUPS, _spreads(), strict=True):
        moves = [
            np.broadcast_to(np.asarray(displacement.get(n, (0, 0)), np.float64), LANDMARKS[n].shape) for n in names
        ]
        points = np.concatenate([LANDMARKS[n] for n in names])
        side = np.where(points[:, :1] < MIDLINE_X, left, right)
        field += spread @ (np.concatenate(moves) * side)
    return field.astype(np.float32)


def show(picture: np.ndarray, shown: Pose) -> np.ndarray:
    """Warp the portrait (uint8 FACE_PX, FACE_PX, 4) into a pose and paint the mouth's inside."""
    warped = cv2.remap(picture, *backward_map(shown.field), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if shown.cover > 0.01:
        mask = _mouth_mask(shown.field)[..., None] * shown.cover
        lips = warped[MOUTH_ROWS, :, :3]
        lips[:] = lips + (shown.colour - lips) * mask[MOUTH_ROWS]
    return warped


def backward_map(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Source position of each target pixel of a forward displacement field, by fixed-point iteration."""
    size = field.shape[0]
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    map_x, map_y = x, y
    for _ in range(INVERSION_STEPS):
        moved = cv2.remap(field, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        map_x, map_y = x - moved[..., 0], y - moved[..., 1]
    return map_x, map_y


@cache
def portrait() -> np.ndarray:
    """The portrait on the canvas with its matte: uint8 (FACE_PX, FACE_PX, 4), RGB and alpha."""
    from skimage import data

    picture = cv2.resize(data.astronaut()[CROP], (FACE_PX, FACE_PX), interpolation=cv2.INTER_CUBIC)
    return np.dstack([picture, np.round(255 * _matte(picture)).astype(np.uint8)])


def _matte(picture: np.ndarray) -> np.ndarray:
    """Head and shoulders against the studio's grey background."""
    mask = np.full(picture.shape[:2], cv2.GC_PR_BGD, np.uint8)
    scale = FACE_PX / _MEASURED_ON_PX
    head = tuple(int(v * scale) for v in (580, 430)), tuple(int(v * scale) for v in (350, 400))
    cv2.ellipse(mask, head[0], head[1], 0, 0, 360, cv2.GC_PR_FGD, -1)
    cv2.ellipse(mask, head[0], tuple(int(v * 0.8) for v in head[1]), 0, 0, 360, cv2.GC_FGD, -1)
    mask[int(760 * scale) :, int(120 * scale) : int(900 * scale)] = cv2.GC_PR_FGD
    mask[int(850 * scale) :, int(380 * scale) : int(700 * scale)] = cv2.GC_FGD
    mask[: int(60 * scale)] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), mask, None, *models, 5, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    inside = cv2.morphologyEx(inside, cv2.MORPH_OPEN, np.ones((5, 5)))
    return cv2.GaussianBlur(inside, (0, 0), 1.2)


def _mouth_mask(field: np.ndarray) -> np.ndarray:
    """Coverage 0..1 of the space between the lips."""
    corners = LANDMARKS["corners"]
    outline = np.concatenate([corners[:1], LANDMARKS["lip_up_in"], corners[1:], LANDMARKS["lip_low_in"][::-1]])
    at = np.round(outline).astype(int)
    moved = outline + field[at[:, 1], at[:, 0]]
    mask = np.zeros(field.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(_rounded(moved) * 16).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=4)
    return cv2.GaussianBlur(mask, (0, 0), 0.8).astype(np.float32) / 255


def _rounded(outline: np.ndarray) -> np.ndarray:
    """The closed polygon through its points as a smooth curve (Catmull-Rom)."""
    before, after, far = np.roll(outline, 1, 0), np.roll(outline, -1, 0), np.roll(outline, -2, 0)
    t = np.linspace(0, 1, 6, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (p[:, None] for p in (before, outline, after, far))
    curve = p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    return curve.reshape(-1, 2)


@cache
def _spreads() -> tuple[np.ndarray, ...]:
    """Per group: how much each moving landmark moves each pixel, (FACE_PX, FACE_PX, landmarks)."""
    y, x = np.mgrid[0:FACE_PX, 0:FACE_PX]
    spreads = []
    for reach, names, anchors in GROUPS:
        points = np.concatenate([LANDMARKS[name] for name in (*names, *anchors)])
        moving = sum(len(LANDMARKS[name]) for name in names)
        distance = ((points[:, None] - points[None]) ** 2).sum(-1)
        kernel = np.exp(-distance / (2 * reach**2)) + RIDGE * np.eye(len(points))
        near = np.exp(-((x[..., None] - points[:, 0]) ** 2 + (y[..., None] - points[:, 1]) ** 2) / (2 * reach**2))
        spreads.append((near @ np.linalg.inv(kernel))[..., :moving])
    return tuple(spreads)
