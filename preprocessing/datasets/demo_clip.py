"""One clip of the demo: a person moves, blinks and shows an expression before a camera."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from preprocessing.datasets.demo_expression import BLINK, EXPRESSIONS, RELAXED, STEP_PX, Fields, fields
from preprocessing.datasets.demo_portrait import ORIGIN, SIZE_PX, TEXELS
from preprocessing.datasets.demo_subject import FACE, FACE_X, FACE_Y, Layers, Subject

CLIP_PX = 256
FRAMES = (32, 44)
"""Fewest and most frames of a clip."""
_CORNER = np.array([FACE_X - CLIP_PX / 2, FACE_Y - 0.54 * CLIP_PX])
"""Portrait pixel that is the resting picture's corner."""
_FACE = np.s_[84:220, 52:204]
"""The picture's part in which the eyes and the jaw move: only there the other layers can be seen."""
_DAMPING = np.float32(0.7)
"""Of the inversion's steps: below 1, so that it converges where skin is stretched to more than twice its length."""


@dataclass(frozen=True)
class Course:
    """What happens in each frame of a clip, one entry a frame."""

    weight: np.ndarray
    """Of the expression: 0 at rest, about 1 at the apex."""
    blink: np.ndarray
    """0 open, 1 shut."""
    matrices: np.ndarray
    """(n, 2, 3): picture to portrait."""


def course(rng: np.random.Generator) -> Course:
    """Neutral, apex, neutral, with drifting head and at most one blink."""
    count = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    return Course(_weight(rng, count), _blink(rng, count), _motion(rng, count))


def film(subject: Subject, label: str, rng: np.random.Generator, *, face: bool = True) -> list[np.ndarray]:
    """Frames (uint8 RGB, CLIP_PX square) of a person who shows an expression; without `face`, of the empty room."""
    told, camera = course(rng), Camera.of(subject, rng)
    left, right = rng.uniform(0.82, 1.08, 2)
    relaxed, shut = _common_fields()
    rest, shown = relaxed.plus(subject.shape, 1.0), fields(EXPRESSIONS[label], left, right)
    puppet = Puppet(subject.layers, subject.with_creases(label, float(rng.uniform(0.7, 1.2))))
    frames = []
    for weight, blink, matrix in zip(told.weight, told.blink, told.matrices, strict=True):
        picture = camera.background
        if face:
            moved = rest.plus(shown, weight).plus(shut, blink)
            picture = puppet.draw(float(weight), moved, matrix, picture)
        frames.append(camera.take(picture, rng))
    return frames


@cache
def _common_fields() -> tuple[Fields, Fields]:
    """Of the resting face and of shut eyes: the same in every clip."""
    return fields(RELAXED), fields(BLINK)


def _weight(rng: np.random.Generator, count: int) -> np.ndarray:
    """Smooth rise to the apex, hold, smooth fall; the apex lies in the middle half of the clip."""
    peak, rise, fall = rng.uniform(0.35, 0.6) * count, rng.uniform(5, 11), rng.uniform(6, 12)
    hold, at = rng.uniform(0.1, 0.25) * count, np.arange(count)
    up = np.clip((at - (peak - hold / 2 - rise)) / rise, 0, 1)
    down = np.clip(((peak + hold / 2 + fall) - at) / fall, 0, 1)
    both = np.minimum(up, down)
    return rng.uniform(0.7, 1.1) * both * both * (3 - 2 * both)


def _blink(rng: np.random.Generator, count: int) -> np.ndarray:
    centre = rng.uniform(-0.4, 1.0) * count
    return np.clip(1.25 - np.abs(np.arange(count) - centre) / 2.4, 0, 1)


def _drift(rng: np.random.Generator, count: int, reach: float) -> np.ndarray:
    at = np.linspace(0, 1, count)
    waves = np.sin(2 * np.pi * (rng.uniform(0.3, 1.1) * at + rng.random()))
    return reach * (0.6 * waves + rng.uniform(-0.6, 0.6))


def _motion(rng: np.random.Generator, count: int) -> np.ndarray:
    angle, scale = np.radians(_drift(rng, count, 5.0)), 1 + _drift(rng, count, 0.05)
    x, y = _drift(rng, count, 9.0), _drift(rng, count, 6.0)
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    turn = np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)], 1)
    middle = np.array([CLIP_PX / 2, CLIP_PX * 0.75])
    shift = middle + _CORNER - np.einsum("tij,tj->ti", turn, middle + np.stack([x, y], 1))
    return np.concatenate([turn, shift[..., None]], 2)


Pair = tuple[np.ndarray, np.ndarray]


class Puppet:
    """A person's layers between rest and apex, drawn frame by frame."""

    def __init__(self, rest: Layers, apex: Layers) -> None:
        self._rest, self._apex = rest, apex
        self._now = Layers(rest.upper.copy(), rest.lower.copy(), rest.inner)
        self._places: dict[str, Pair] = {}
        """Where the pixels of the last frame came from: the next frame's search starts there."""

    def draw(self, weight: float, moved: Fields, matrix: np.ndarray, background: np.ndarray) -> np.ndarray:
        """The person before the background (uint8 RGB): expression's weight, layers' displacement, head's place."""
        for name in ("upper", "lower") if self._apex is not self._rest else ():
            rest, apex, now = (getattr(layers, name)[FACE] for layers in (self._rest, self._apex, self._now))
            now[:] = cv2.addWeighted(rest, 1 - weight, apex, weight, 0)
        target = _grid(matrix)
        half = tuple(slice(side.start // 2, side.stop // 2) for side in _FACE)
        face = tuple(np.ascontiguousarray(t[half]) for t in target)
        upper = _sample(self._now.upper, self._find("upper", moved.upper, target))
        picture = _over(upper, background)
        inside = _over(_sample(self._now.inner, self._find("inner", moved.inner, face)), background[_FACE])
        inside = _over(upper[_FACE], inside)
        picture[_FACE] = _over(_sample(self._now.lower, self._find("lower", moved.lower, face)), inside)
        return picture

    def _find(self, name: str, field: np.ndarray, target: Pair) -> Pair:
        first = name not in self._places
        self._places[name] = _backward(field, target, self._places.get(name, target), 8 if first else 3)
        return self._places[name]


def _grid(matrix: np.ndarray) -> Pair:
    """Every second pixel's place on the textures, in pixels of the portrait, before the face's own moves."""
    half = np.arange(CLIP_PX // 2, dtype=np.float32) * 2 + np.float32(0.5)
    x, y = (row.astype(np.float32) for row in matrix - np.array([[0, 0, ORIGIN[0]], [0, 0, ORIGIN[1]]]))
    return tuple((row[0] * half)[None] + (row[1] * half + row[2])[:, None] for row in (x, y))


def _backward(field: np.ndarray, target: Pair, start: Pair, steps: int) -> Pair:
    """Positions that the field moves to the target positions: its inverse by damped fixed-point iteration."""
    (x, y), offset = start, np.float32((STEP_PX - 1) / 2)
    for _ in range(steps):
        grid = (x - offset) / STEP_PX, (y - offset) / STEP_PX
        moved = cv2.remap(field, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        x = x + _DAMPING * (target[0] - moved[..., 0] - x)
        y = y + _DAMPING * (target[1] - moved[..., 1] - y)
    return x, y


def _sample(texture: np.ndarray, at: Pair) -> np.ndarray:
    """The texture at positions that are given for every second pixel of the picture."""
    shift = np.float32(0.5)
    maps = (cv2.resize((a + shift) * TEXELS - shift, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR) for a in at)
    return cv2.remap(texture, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _over(layer: np.ndarray, picture: np.ndarray) -> np.ndarray:
    cover = cv2.extractChannel(layer, 3) * np.float32(1 / 255)
    return cv2.blendLinear(cv2.cvtColor(layer, cv2.COLOR_RGBA2RGB), picture, cover, 1 - cover)


@dataclass(frozen=True)
class Camera:
    """What stands still in a clip: the room, its light and the sensor."""

    background: np.ndarray
    light: np.ndarray
    blur_px: float
    grain: np.ndarray
    """Noise, of which each frame gets another window."""
    mirrored: bool

    @classmethod
    def of(cls, subject: Subject, rng: np.random.Generator) -> "Camera":
        """The subject's room from a slightly different place, in a slightly different light."""
        x, y = rng.integers(0, SIZE_PX - CLIP_PX + 1, 2)
        window = np.s_[y : y + CLIP_PX, x : x + CLIP_PX]
        light = subject.light[window] * np.float32(rng.uniform(0.93, 1.07))
        grain = np.float32(subject.noise) * rng.standard_normal((SIZE_PX, SIZE_PX, 1), np.float32)
        background = np.ascontiguousarray(subject.background[window])
        return cls(background, light, subject.blur_px, np.repeat(grain, 3, 2), subject.mirrored)

    def take(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The picture (uint8 RGB) as the sensor sees it."""
        if self.blur_px > 0.2:
            picture = cv2.GaussianBlur(picture, (0, 0), self.blur_px)
        x, y = rng.integers(0, SIZE_PX - CLIP_PX + 1, 2)
        lit = cv2.multiply(picture, self.light, dtype=cv2.CV_32F)
        taken = cv2.add(lit, self.grain[y : y + CLIP_PX, x : x + CLIP_PX], dtype=cv2.CV_8U)
        return cv2.flip(taken, 1) if self.mirrored else taken
