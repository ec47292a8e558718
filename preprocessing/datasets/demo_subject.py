"""A synthetic person of the demo: the portrait in other proportions, tones, hair, eyes and clothes."""

from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.datasets import demo_portrait
from preprocessing.datasets.demo_expression import CREASES, STEP_PX, Fields, Moves, fields
from preprocessing.datasets.demo_portrait import BROWS, IRISES, ORIGIN, SIZE_PX, TEXELS

FACE_X, FACE_Y = 223.5, 126.0
"""Middle of the portrait's face."""
_TONES = np.array(
    [(216, 178, 156), (208, 170, 142), (192, 146, 116), (162, 114, 86), (128, 88, 66), (100, 70, 54)], np.float32
)
"""Skin from light to dark, RGB; so hair and irises."""
_HAIR = np.array(
    [(34, 29, 28), (66, 46, 33), (104, 74, 48), (128, 84, 50), (184, 148, 96), (126, 66, 40), (150, 147, 144)],
    np.float32,
)
_DARK_HAIR = 3
"""So many of the hair colours, from the first, go with dark skin."""
_IRIS = np.array([(62, 40, 24), (88, 58, 30), (70, 84, 52), (78, 104, 128), (48, 34, 24)], np.float32)
FACE = np.s_[200:460, 190:390]
"""The textures' part that wrinkles, eyes and mouth change."""
_CREASE_TINT = np.array([0.8, 1.0, 1.1], np.float32)
"""Shadows on skin are reddish: blood scatters light under it."""


@dataclass(frozen=True)
class Layers:
    """uint8 textures (SIZE_PX * TEXELS square, 4): RGB and what the layer covers."""

    upper: np.ndarray
    lower: np.ndarray
    inner: np.ndarray


@dataclass(frozen=True)
class Subject:
    """A person at rest, and how light and camera see them."""

    layers: Layers
    shape: Fields
    mirrored: bool
    background: np.ndarray
    """uint8 (SIZE_PX, SIZE_PX, 3)."""
    light: np.ndarray
    """Gain of the light: float32, of the background's shape."""
    blur_px: float
    noise: float

    def with_creases(self, label: str, depth: float) -> Layers:
        """The person's textures with the wrinkles of an expression."""
        wanted = dict(CREASES[label])
        if not wanted:
            return self.layers
        portrait, folds = demo_portrait.portrait(), wanted.pop("folds", 0.0) * depth
        shade = sum(portrait.creases[name][FACE] * np.float32(share * depth) for name, share in wanted.items())
        gain = 1 - np.clip(shade, 0, 0.8)[..., None] * _CREASE_TINT
        upper, lower = self.layers.upper.copy(), self.layers.lower.copy()
        for texture in (upper, lower):
            rgb = texture[FACE][..., :3] * gain
            tone = cv2.GaussianBlur(rgb, (0, 0), 8) / portrait.skin_colour
            texture[FACE][..., :3] = _to_uint8(rgb + tone * portrait.folds[FACE] * np.float32(folds))
        return Layers(upper, lower, self.layers.inner)


def subject(rng: np.random.Generator, tone: float, hair: int) -> Subject:
    """Draw a person; `tone` 0..1 from light to dark skin, `hair` an index of the hair colours (any whole number)."""
    return Subject(
        layers=_layers(rng, tone, hair),
        shape=_shape(rng),
        mirrored=bool(rng.random() < 0.5),
        background=_background(rng),
        light=_light(rng),
        blur_px=rng.uniform(0.0, 0.75),
        noise=rng.uniform(1.0, 4.5),
    )


def _layers(rng: np.random.Generator, tone: float, hair: int) -> Layers:
    portrait = demo_portrait.portrait()
    skin_colour = _mix(_TONES, tone) * rng.uniform(0.95, 1.05, 3)
    hair_colour = _HAIR[hair % (len(_HAIR) if tone < 0.55 else _DARK_HAIR)] * rng.uniform(0.88, 1.12)
    rgb = _hair(portrait.rgb, hair_colour, rng.uniform(0.75, 1.05))
    rgb = rgb + (_skin(portrait.rgb, portrait.skin_colour, skin_colour) - rgb) * portrait.skin[..., None]
    rgb = _brows(rgb, np.minimum(hair_colour, 95) * 0.62, rng.uniform(1.0, 1.8), rng.uniform(0.55, 0.85))
    rgb = _lips(rgb, rng.uniform(0.0, 0.2))
    rgb = _stubble(rgb, rng.uniform(-0.25, 0.22))
    rgb = rgb + (_garment(rng) - rgb) * np.maximum(portrait.garment, _below_head(portrait.head))[..., None]
    inner = _behind(rgb, portrait.rgb, _IRIS[rng.integers(len(_IRIS))] * rng.uniform(0.85, 1.15))
    covers = portrait.upper * portrait.figure, portrait.lower * portrait.figure, portrait.inner
    pictures = rgb, rgb, inner
    return Layers(*(np.dstack([_to_uint8(p), _to_uint8(255 * c)]) for p, c in zip(pictures, covers, strict=True)))


def _mix(colours: np.ndarray, at: float) -> np.ndarray:
    index = np.arange(len(colours)) / (len(colours) - 1)
    return np.array([np.interp(at, index, channel) for channel in colours.T])


def _skin(rgb: np.ndarray, mean: np.ndarray, colour: np.ndarray) -> np.ndarray:
    relative = np.maximum(rgb, 1) / mean
    return (colour * relative**0.95).astype(np.float32)


def _hair(rgb: np.ndarray, colour: np.ndarray, contrast: float) -> np.ndarray:
    relative = 0.22 + 0.78 * np.clip(rgb.mean(-1, keepdims=True) / 98, 0, 1.8)
    return (colour * relative**contrast).astype(np.float32)


def _below_head(head: np.ndarray) -> np.ndarray:
    """Everything beside and below the neck: takes the garment's colour, so that its moving edge shows no other."""
    cover = 1 - head
    cover[: int((176 - ORIGIN[1]) * TEXELS)] = 0
    return cover


def _brows(rgb: np.ndarray, colour: np.ndarray, width_px: float, depth: float) -> np.ndarray:
    brows = np.maximum(*(demo_portrait.stroke(line, width_px) for line in BROWS))[..., None]
    rgb = rgb + (colour - rgb) * np.float32(depth) * brows
    return rgb * (1 - np.float32(0.6) * demo_portrait.portrait().lashes[..., None])


def _lips(rgb: np.ndarray, depth: float) -> np.ndarray:
    cover = demo_portrait.portrait().lips[..., None]
    dull = np.minimum(rgb, 0.55 * rgb + 0.45 * cv2.GaussianBlur(rgb, (0, 0), 6))  # no wet shine: the lips get warped
    redder = dull * (1 - np.array([0.3, 1.0, 0.9], np.float32) * np.float32(0.08 + depth))
    return rgb + (redder - rgb) * cover


def _stubble(rgb: np.ndarray, depth: float) -> np.ndarray:
    """A shadow of beard; most people have none (depth below 0)."""
    if depth <= 0:
        return rgb
    tint = np.array([1.0, 0.97, 0.92], np.float32) * np.float32(depth)
    return rgb * (1 - demo_portrait.portrait().beard[..., None] * tint)


def _garment(rng: np.random.Generator) -> np.ndarray:
    colour = np.clip(rng.uniform(35, 200) + rng.uniform(-45, 45, 3), 15, 230)
    side = SIZE_PX * TEXELS
    coarse = cv2.resize(rng.normal(0, 1, (24, 24)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    x, y = ((np.arange(side) + 0.5) / TEXELS + origin for origin in ORIGIN)
    chin_shadow = 0.45 * np.exp(-(((x - FACE_X) / 38) ** 2))[None] * np.exp(-(((y - 188) / 11) ** 2))[:, None]
    rounding = 0.3 * (np.abs(x - FACE_X) / 130)[None] ** 2
    return (colour * (1 + 0.05 * coarse - chin_shadow - rounding)[..., None]).astype(np.float32)


def _behind(rgb: np.ndarray, original: np.ndarray, iris: np.ndarray) -> np.ndarray:
    """What opened lips and lids show."""
    inner, (y, x) = rgb.copy(), np.mgrid[FACE].astype(np.float32)
    inner[FACE] = _eyes(_mouth(rgb[FACE], original[FACE], x, y), iris, x, y)
    return inner


def _mouth(rgb: np.ndarray, original: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The portrait's own teeth, and the dark with a tongue below them."""
    portrait = demo_portrait.portrait()
    floor, window = portrait.mouth_floor[FACE][..., None], portrait.mouth[FACE][..., None]
    centre = demo_portrait.texels([(222.8, 162)])[0]
    tongue = np.exp(-((((x - centre[0]) / 24) ** 2 + ((y - centre[1]) / 11) ** 2) ** 2))[..., None]
    dark = np.array([44, 16, 18], np.float32) + tongue * np.array([92, 44, 46], np.float32)
    teeth = original * np.array([0.94, 0.92, 0.9], np.float32)
    return rgb + (teeth + (dark - teeth) * floor - rgb) * window


def _eyes(rgb: np.ndarray, colour: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Eyeballs: white, iris with a dark rim, pupil, a spot of light; more of them than the portrait's lids show."""
    for cx, cy in demo_portrait.texels(IRISES):
        px, py = (x - cx) / TEXELS, (y - cy) / TEXELS
        radius = np.hypot(px, py)
        ball = np.clip(1.6 - np.hypot(px / 12.5, py / 9.5) * 1.4, 0, 1)[..., None]
        shade = np.clip(1.0 - 0.028 * np.abs(px) - 0.05 * np.clip(-py, 0, 6), 0.5, 1)[..., None]
        lidded = (1 - 0.45 * np.clip((-py - 0.5) / 3, 0, 1))[..., None]
        white = shade * np.array([232, 224, 218], np.float32)
        iris = colour * (0.8 + 0.35 * np.clip(py / 4, -0.8, 1) + 0.25 * np.clip(radius / 4, 0, 1))[..., None]
        iris = iris * (1 - 0.5 * np.clip((radius - 2.9) / 1.0, 0, 1))[..., None]
        eye = white + (iris - white) * np.clip(4.6 - radius, 0, 1)[..., None]
        eye = eye * (1 - 0.9 * np.clip(2.2 - radius, 0, 1))[..., None] * lidded
        glint = np.clip(1.5 - np.hypot(px + 1.2, py + 1.3), 0, 1)[..., None]
        eye = eye + (245 - eye) * glint
        rgb = rgb + (eye - rgb) * ball
    return rgb.astype(np.float32)


def _shape(rng: np.random.Generator) -> Fields:
    """Proportions: one smooth field for all layers, and moves of brows, lips and lids."""
    cells = SIZE_PX // STEP_PX
    at = np.arange(cells, dtype=np.float32) * STEP_PX + (STEP_PX - 1) / 2
    x, y = (at + ORIGIN[0])[None] - FACE_X, (at + ORIGIN[1])[:, None]
    near = np.exp(-((x / 75) ** 2))
    head, jaw, cheekbones = rng.uniform((-0.10, -0.13, -0.08), (0.12, 0.13, 0.08))
    dx = x * near * (head + jaw * _bump(y, 166, 26) + cheekbones * _bump(y, 112, 24))
    dy = near * (rng.uniform(-6, 8) * _bump(y, 178, 26) + rng.uniform(-3, 3) * _bump(y, 140, 18))
    dx = dx + x * np.exp(-((x / 15) ** 2)) * _bump(y, 126, 10) * rng.uniform(-0.18, 0.32)
    dy = dy + np.exp(-((x / 16) ** 2)) * _bump(y, 126, 12) * rng.uniform(-3, 3)
    dx, dy = _add_eyes(rng, x, y, dx, dy)
    dx, dy = _add_hair(rng, x, y, dx, dy)
    field = np.stack(np.broadcast_arrays(dx, dy), -1).astype(np.float32)
    return fields(_features(rng)).plus(Fields(field, field, field), 1.0)


def _bump(y: np.ndarray, centre: float, reach: float) -> np.ndarray:
    return np.exp(-(((y - centre) / reach) ** 2))


def _add_eyes(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> tuple:
    size, apart, height = rng.uniform(-0.08, 0.22), rng.uniform(-2, 2.2), rng.uniform(-1.5, 1.5)
    for eye_x, eye_y in IRISES:
        px, py = x - (eye_x - FACE_X), y - eye_y
        near = np.exp(-((px / 16) ** 2) - (py / 13) ** 2)
        dx = dx + near * (px * size + np.sign(eye_x - FACE_X) * apart)
        dy = dy + near * (py * size + height)
    return dx, dy


def _add_hair(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> tuple:
    """More or less hair: moves outwards what lies above and beside the face."""
    wide, high = rng.uniform(-14, 8), rng.uniform(-9, 9)
    beside = np.clip((np.abs(x) - 44) / 30, 0, 1) * _bump(y, 84, 55)
    above = np.clip((78 - y) / 55, 0, 1)
    return dx + np.sign(x) * wide * beside, dy - high * above


def _features(rng: np.random.Generator) -> Moves:
    brow, tilt, lips, wide = rng.uniform(-1.6, 1.6), rng.uniform(-1, 1), rng.uniform(-0.5, 1.6), rng.uniform(-2.4, 2.4)
    lid = rng.uniform(-0.6, 0.7)
    return {
        "brow": [(0, brow - tilt), (0, brow), (rng.uniform(-1, 1.4), brow + tilt)],
        "lid_up": [(0, lid)] * 3,
        "lip_up": [(wide, -0.4 * lips), (wide / 3, -lips)],
        "lip_up_mid": [(0, -lips)],
        "lip_up_in": [(wide, 0), (wide / 3, 0)],
        "lip_low": [(wide, 0.5 * lips), (wide / 3, lips)],
        "lip_low_mid": [(0, 1.2 * lips)],
        "lip_low_in": [(wide, 0), (wide / 3, 0)],
        "corner": [(wide, 0)],
    }


def _background(rng: np.random.Generator) -> np.ndarray:
    """A room out of focus: a wall, some furniture, a little texture."""
    wall = rng.uniform(60, 200) + rng.uniform(-22, 22, 3)
    fall = np.linspace(rng.uniform(0.9, 1.1), rng.uniform(0.8, 1.1), SIZE_PX)
    picture = np.ones((SIZE_PX, SIZE_PX, 3)) * wall * fall[:, None, None]
    for _ in range(int(rng.integers(3, 8))):
        x, y = rng.integers(-40, SIZE_PX, 2)
        w, h = rng.integers(25, 150, 2)
        colour = np.clip(rng.uniform(35, 215) + rng.uniform(-24, 24, 3), 0, 255)
        cv2.rectangle(picture, (int(x), int(y)), (int(x + w), int(y + h)), [float(c) for c in colour], -1)
    picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), rng.uniform(5, 16))
    return _to_uint8(picture + cv2.GaussianBlur(rng.normal(0, 9, picture.shape).astype(np.float32), (0, 0), 1.5))


def _light(rng: np.random.Generator) -> np.ndarray:
    ramp = np.linspace(-1, 1, SIZE_PX)
    slopes = 1 + rng.uniform(-0.3, 0.3) * ramp[None, :, None] + rng.uniform(-0.15, 0.1) * ramp[:, None, None]
    return (rng.uniform(0.82, 1.08) * slopes * np.ones(3)).astype(np.float32)


def _to_uint8(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)
