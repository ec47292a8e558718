"""The demo's portrait cut into layers: upper face, lower face, and what lies behind lids and lips.

Points are measured, by hand, in pixels of `skimage.data.astronaut()` (public domain, ships with scikit-image). The
portrait smiles; the layers let the mouth close and open and the eyes blink without stretching teeth and irises.
Textures have TEXELS texels per pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

ORIGIN = np.array([80.0, -30.0])
"""Portrait pixel (x, y) that is the textures' corner."""
SIZE_PX = 288
TEXELS = 2

Points = Sequence[tuple[float, float]]

_HEAD: Points = [
    (182, 133), (177, 131), (172, 126), (170.5, 120), (167, 115), (160, 109.5), (156.5, 102), (154.5, 92),
    (153.5, 80), (153.5, 66), (156.5, 58), (162, 51.5), (170, 45), (180, 39), (190, 34), (193, 29.5), (199, 25.5),
    (206, 22), (215, 20), (222, 17.5), (230, 16), (238, 16.5), (246, 18.5), (256, 22.5), (266, 26.5), (275, 31),
    (283.5, 37.5), (289.5, 46), (293.5, 54), (296.5, 62), (298, 72), (300, 80), (300.5, 88), (299.5, 96),
    (296.5, 104), (293, 111), (287.5, 117), (281.5, 122.5), (278.5, 127), (276.5, 131), (272.5, 135.5),
    (269, 136.5), (266.5, 136), (265.5, 142), (262.5, 150), (258, 157.5), (255.5, 165), (253.5, 176), (253, 196),
    (187, 196), (186, 176), (186, 152), (183.5, 142),
]  # fmt: skip
_SKIN: Points = [
    (185, 83), (189, 79), (200, 80.5), (225, 80), (240, 81.5), (250, 84.5), (258, 88.5), (266, 90), (269, 100),
    (271, 112), (271.5, 122), (274, 130), (280, 127), (278, 133), (271, 138), (266, 140), (263, 150), (258, 159),
    (256, 200), (183, 200), (185, 150), (181, 134), (175, 132), (170, 126), (169, 119), (178, 119), (181, 122),
    (180, 112), (181, 100), (184, 84),
]  # fmt: skip
_GARMENT: Points = [
    (60, 300), (80, 244), (104, 222), (140, 209), (168, 197), (179, 188), (183.5, 174), (192, 180), (205, 184),
    (222, 186), (238, 186.5), (248, 183), (255.5, 174), (260, 188), (272, 199), (302, 210), (338, 223), (360, 246),
    (390, 300),
]  # fmt: skip
_EYES: tuple[Points, Points] = (
    [(192.5, 100.5), (196, 98.6), (200, 97.4), (204, 97.3), (208, 98.8), (211, 101.4), (213.3, 103.4), (210.5, 104.3),
     (207, 104.6), (203, 104.5), (199, 103.4), (195.5, 102)],
    [(235.5, 104.8), (238, 102.2), (241, 100.7), (245, 99.7), (249, 99.8), (253, 101.2), (256, 103), (258, 104.4),
     (255, 105.3), (252, 106.2), (248, 106.8), (244, 106.5), (240, 105.7)],
)  # fmt: skip
IRISES: Points = [(202.7, 100.6), (246.2, 103.2)]
_UPPER_LIP: Points = [
    (202, 139), (204, 140), (208, 141.3), (213, 142.4), (218, 143.4), (223, 143.9), (228, 143.4), (233, 142.6),
    (238, 141.2), (243.5, 139.8),
]  # fmt: skip
_LOWER_LIP: Points = [
    (202, 139.2), (206, 143.2), (210, 146.6), (214, 148.4), (218, 149.1), (222, 149.3), (227, 149), (231, 148),
    (234, 146.6), (238, 144), (243.5, 140),
]  # fmt: skip
_LIPS: Points = [
    (203, 138.6), (209, 138.4), (215, 138.2), (219, 138.4), (222.8, 139.2), (226.5, 138.4), (232, 138.4),
    (238, 138.8), (243, 139.8), (238.5, 147), (234, 151.3), (229, 154.4), (223, 155.6), (216, 154), (210, 150),
    (206, 146),
]  # fmt: skip
_BEARD: Points = [
    (186, 138), (200, 141), (210, 134), (223, 133), (236, 134), (247, 142), (263, 140), (256, 166), (240, 180),
    (224, 184), (206, 180), (190, 164),
]  # fmt: skip
_INNER_JAW: Points = [
    (195, 128), (194, 150), (200, 163), (211, 171.5), (224, 174), (237, 171.5), (248, 163), (254, 150), (253, 128),
]  # fmt: skip
_OUTER_JAW: Points = [
    (187, 124), (186, 151), (194, 167), (208, 178), (224, 181), (240, 178), (254, 167), (262, 151), (261, 124),
]  # fmt: skip
_MOUTH: Points = [(200, 134), (246, 134), (250, 150), (246, 176), (200, 176), (196, 150)]
BROWS: tuple[Points, Points] = (
    [(189.5, 90.2), (193, 89), (198, 88.3), (203, 89), (208, 90.4), (212.5, 92)],
    [(261.5, 95.6), (258, 93.8), (254, 92.2), (249, 91.8), (243, 92.3), (237.5, 93.2)],
)
"""Middle lines, from the outer end to the inner."""
_FOLDS: tuple[Points, Points] = (
    [(209, 121.5), (204, 128), (198, 133.3), (195.3, 138), (196, 143)],
    [(237.5, 124), (243, 130), (248, 135.7), (249.7, 140), (247.5, 144.5)],
)
_CREASES: dict[str, tuple[float, list[Points]]] = {
    "frown": (1.8, [[(220, 86), (218.8, 91), (219.3, 96)], [(228, 87), (229.3, 92), (228.7, 97)]]),
    "forehead": (1.1, [[(206, 85.6), (216, 85), (225, 85.4), (234, 85.6), (243, 87)],
                       [(213, 88.6), (220, 88.8), (227, 89), (235, 89.2)]]),
    "nose": (1.7, [[(217, 104), (223, 102.6), (229.5, 105)], [(216, 108.5), (223, 107), (230.5, 109.2)],
                   [(213.5, 114), (217, 111.5)], [(229, 112.5), (233, 115)]]),
    "cheeks": (1.8, [[(208, 122.5), (203.5, 128.5), (199.5, 133)], [(238.5, 124.5), (243, 130), (247, 134.5)]]),
    "eyes": (1.0, [[(190, 101.5), (186, 102.5)], [(191, 104), (187, 106.5)], [(259.5, 105.5), (263.5, 107)],
                   [(258, 108), (262, 111)], [(196, 107), (203, 108.6), (210, 107.5)],
                   [(239, 109), (247, 110.6), (253, 109)]]),
}  # fmt: skip
"""Wrinkles that an expression may deepen: half width in pixels, lines."""


@dataclass(frozen=True)
class Portrait:
    """Textures and masks, all float32 (SIZE_PX * TEXELS) squares; colours 0..255 RGB, masks 0..1."""

    rgb: np.ndarray
    """Skin and hair, smile folds removed, colours of the figure's rim carried outwards."""
    upper: np.ndarray
    """Where the upper face, and all but the jaw, covers: not under the upper lip, not in the eyes' openings."""
    lower: np.ndarray
    """Where the lower face covers: the jaw below the lower lip's edge."""
    inner: np.ndarray
    """Where what lies behind may be seen: around the eyes and the mouth."""
    figure: np.ndarray
    head: np.ndarray
    skin: np.ndarray
    garment: np.ndarray
    folds: np.ndarray
    """Colour difference (3 channels) that brings the smile's folds back."""
    creases: dict[str, np.ndarray]
    """Depth of each kind of wrinkle."""
    lips: np.ndarray
    lashes: np.ndarray
    beard: np.ndarray
    mouth: np.ndarray
    """Window in which teeth or the mouth's floor may be seen."""
    mouth_floor: np.ndarray
    """The part of the window below the upper teeth."""
    skin_colour: np.ndarray
    """Mean RGB of the skin."""


@cache
def portrait() -> Portrait:
    """The portrait's layers; the first call takes about half a second."""
    head, garment = mask(_HEAD, 0.8), mask(_GARMENT, 0.6)
    original = _texture()
    skin = mask(_SKIN, 1.2) * head * (1 - garment)
    smooth, folds = _without_folds(original)
    upper, lower = _cover()
    return Portrait(
        rgb=_bleed(smooth, head),
        upper=upper,
        lower=lower,
        figure=np.maximum(head, garment),
        head=head,
        skin=skin,
        garment=garment,
        folds=folds,
        creases={name: _lines(lines, width) for name, (width, lines) in _CREASES.items()},
        lips=mask(_LIPS, 0.8),
        lashes=_lines([_EYES[0][:7], _EYES[1][:8]], 0.7),
        beard=mask(_BEARD, 4.0) * (1 - mask(_LIPS, 1.5)),
        inner=np.maximum(mask(_MOUTH, 1.0), np.clip(6 * _eye_opening(3.0), 0, 1)),
        mouth=mask(_MOUTH, 1.0),
        mouth_floor=_mouth_floor(),
        skin_colour=smooth[skin > 0.9].mean(0),
    )


def texels(points: Points) -> np.ndarray:
    """Texture coordinates (n, 2) of points of the portrait."""
    return (np.asarray(points, np.float64) + 0.5 - ORIGIN) * TEXELS - 0.5


def mask(points: Points, feather_px: float, *, smooth: bool = True) -> np.ndarray:
    """Coverage 0..1 of a polygon, its corners rounded and its edge blurred."""
    outline = texels(_rounded(points) if smooth else points)
    canvas = np.zeros((SIZE_PX * TEXELS,) * 2, np.uint8)
    cv2.fillPoly(canvas, [np.round(outline * 16).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=4)
    return cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), feather_px * TEXELS)


def _eye_opening(feather_px: float) -> np.ndarray:
    """Coverage of both eyes' openings."""
    return np.maximum(mask(_EYES[0], feather_px), mask(_EYES[1], feather_px))


def _mouth_floor() -> np.ndarray:
    """Coverage of the space behind and below the upper teeth, where the dark of an open mouth is painted."""
    below = [(x, y - 0.2) for x, y in _LOWER_LIP]
    return mask([*below, (252, 150), (250, 190), (196, 190), (194, 150)], 0.5, smooth=False)


def stroke(points: Points, width_px: float) -> np.ndarray:
    """Coverage 0..1 of a soft line whose ends taper; Gaussian profile of the given half width."""
    line, cover = texels(_curve(points)), np.zeros((SIZE_PX * TEXELS,) * 2, np.float32)
    for at, (x, y) in zip(np.linspace(0.03, 0.97, len(line)), line, strict=True):
        reach = width_px * TEXELS * (0.35 + 0.65 * np.sin(np.pi * at) ** 0.5)
        left, top, side = int(x - 3 * reach), int(y - 3 * reach), int(6 * reach) + 2
        along = np.arange(side)
        across = np.exp(-((along + left - x) ** 2) / (2 * reach**2))
        down = np.exp(-((along + top - y) ** 2) / (2 * reach**2))
        spot = cover[top : top + side, left : left + side]
        np.maximum(spot, np.outer(down, across), out=spot, casting="unsafe")
    return cover


def _texture() -> np.ndarray:
    from skimage import data

    picture, (x, y) = data.astronaut(), ORIGIN.astype(int)
    crop = picture[: y + SIZE_PX, x : x + SIZE_PX]
    crop = cv2.copyMakeBorder(crop, -y, 0, 0, 0, cv2.BORDER_REPLICATE)
    enlarged = cv2.resize(crop, None, fx=TEXELS, fy=TEXELS, interpolation=cv2.INTER_CUBIC)
    return enlarged.astype(np.float32)


def _without_folds(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The portrait without the folds of its smile, and what was taken away."""
    cover = np.maximum(*(stroke(line, 2.4) for line in _FOLDS))
    hole = (cover > 0.25).astype(np.uint8)
    filled = cv2.inpaint(rgb.astype(np.uint8), hole, 6, cv2.INPAINT_TELEA).astype(np.float32)
    filled = cv2.GaussianBlur(filled, (0, 0), 2.5)
    weight = np.clip(cover * 1.6, 0, 1)[..., None]
    smooth = rgb + (filled - rgb) * weight
    return smooth, rgb - smooth


def _bleed(rgb: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Carry the colours of the rim outwards, so that a moved edge shows no studio wall."""
    core = np.clip(inside * 4 - 3, 0, 1)[..., None]
    weight = cv2.GaussianBlur(core, (0, 0), 6)[..., None] + 1e-4
    spread = cv2.GaussianBlur(rgb * core, (0, 0), 6) / weight
    return rgb * core + spread * (1 - core)


def _cover() -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower face; beside the mouth and along the jaw they overlap, so that no gap opens between them."""
    left, right = _UPPER_LIP[0], _UPPER_LIP[-1]
    below = [(left[0] - 8, left[1] + 9), (left[0] - 1, left[1] + 1)]
    below_right = [(right[0] + 1, right[1] + 1), (right[0] + 8, right[1] + 9)]
    above = [(left[0] - 8, left[1] - 9), (left[0] - 1, left[1] - 1)]
    above_right = [(right[0] + 1, right[1] - 1), (right[0] + 8, right[1] - 9)]
    under_upper = [(170, 150), *below, *_UPPER_LIP, *below_right, (280, 150), (280, 220), (170, 220)]
    under_lower = [(170, 128), *above, *_LOWER_LIP, *above_right, (280, 128), (280, 220), (170, 220)]
    upper = 1 - mask(under_upper, 0.3, smooth=False) * mask(_INNER_JAW, 2.0)
    return upper * (1 - _eye_opening(0.35)), mask(under_lower, 0.3, smooth=False) * mask(_OUTER_JAW, 2.0)


def _lines(lines: list[Points], width_px: float) -> np.ndarray:
    return np.maximum.reduce([stroke(line, width_px) for line in lines])


def _rounded(points: Points) -> np.ndarray:
    """The closed polygon through its points as a smooth curve (Catmull-Rom)."""
    p = np.asarray(points, np.float64)
    return _spline(np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0))


def _curve(points: Points) -> np.ndarray:
    """The open line through its points as a smooth curve."""
    p = np.asarray(points, np.float64)
    p = np.concatenate([p[:1] * 2 - p[1:2], p, p[-1:] * 2 - p[-2:-1]])
    return _spline(p[:-3], p[1:-2], p[2:-1], p[3:])


def _spline(p0: np.ndarray, p1: np.ndarray, p2: np.ndarray, p3: np.ndarray) -> np.ndarray:
    t = np.linspace(0, 1, 8, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (p[:, None] for p in (p0, p1, p2, p3))
    curve = p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    return curve.reshape(-1, 2)
