"""Seven expressions as moves of landmarks, spread over the demo's portrait by thin-plate splines.

A move is (inward, down) in pixels of the portrait, whose face is 90 px wide; inward is towards the face's midline, so
one table serves both halves. Landmarks of both halves run from the outer to the inner end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from preprocessing.datasets.demo_portrait import IRISES, ORIGIN, SIZE_PX, Points

STEP_PX = 3
"""Distance of the fields' grid points; the first lies at the corner of the textures."""
STIFFNESS = 2e-4
"""Regularisation of the splines: close landmarks that disagree bend the skin instead of tearing it."""

Moves = Mapping[str, list[tuple[float, float]]]

_SIDED: dict[str, tuple[Points, Points]] = {
    "brow": ([(190.5, 89.8), (199, 88.4), (211.5, 91.6)], [(260.5, 95), (251, 91.9), (239, 93)]),
    "lid_up": ([(197, 98.3), (202.7, 97.3), (208, 98.8)], [(254, 101.6), (247, 99.6), (241, 100.7)]),
    "lid_low": ([(197, 102.6), (202.7, 104.5), (208, 104.6)], [(253.5, 105.7), (247, 106.8), (241, 105.9)]),
    "eye_end": ([(192, 100.4), (213.3, 103.4)], [(258.3, 104.4), (235.4, 104.8)]),
    "under_eye": ([(202, 111)], [(248.5, 113.5)]),
    "cheek": ([(195, 121)], [(255, 123)]),
    "wing": ([(210.5, 127)], [(237.5, 128)]),
    "fold": ([(200, 131)], [(245.8, 133.5)]),
    "corner": ([(202, 139)], [(243.5, 139.9)]),
    "lip_up": ([(207, 138.6), (214.5, 138.5)], [(238, 139), (231, 138.6)]),
    "lip_up_in": ([(207.5, 141.2), (214.5, 142.7)], [(238, 141.2), (231, 142.9)]),
    "lip_low_in": ([(207.5, 144.7), (214.5, 148.5)], [(238, 144), (231, 148)]),
    "lip_low": ([(208, 148.5), (214.5, 153.4)], [(238, 147.8), (231, 153.4)]),
    "jaw": ([(184.5, 147), (192, 162)], [(263, 150), (254, 164)]),
    "jowl": ([(208, 174)], [(239.5, 174)]),
    "temple": ([(182, 98)], [(269, 104)]),
    "ear": ([(171, 123)], [(277, 130)]),
    "hairline": ([(188, 79), (205, 80)], [(262, 89), (245, 83)]),
    "hair_side": ([(153, 80), (158, 108)], [(300, 84), (291, 114)]),
    "hair_top": ([(165, 49), (195, 28)], [(288, 43), (262, 25)]),
    "neck": ([(186, 184)], [(253, 184)]),
    "teeth": ([(207, 143), (214.5, 147)], [(238, 143), (231, 147)]),
    "iris": ([IRISES[0]], [IRISES[1]]),
}
_MIDDLE: dict[str, tuple[float, float]] = {
    "nasion": (223.8, 100),
    "nose": (222.5, 127),
    "lip_up_mid": (222.8, 139.4),
    "lip_up_in_mid": (222.8, 143.9),
    "lip_low_in_mid": (222.8, 149.3),
    "lip_low_mid": (223, 155.3),
    "chin_crease": (223.3, 160),
    "chin": (224, 177.5),
    "crown": (230, 16),
    "throat": (222, 195),
}
_BORDER: Points = [
    (80, -30), (224, -30), (367, -30), (80, 110), (367, 110), (80, 257), (150, 235), (224, 215), (300, 235), (367, 257),
]  # fmt: skip
_SKIN_ONLY = ("lid_up", "lid_low", "eye_end", "corner")
_BY_LAYER = {
    "upper": (*_SKIN_ONLY, "lip_up", "lip_up_in", "lip_up_mid", "lip_up_in_mid"),
    "lower": (*_SKIN_ONLY, "lip_low", "lip_low_in", "lip_low_mid", "lip_low_in_mid"),
    "inner": ("teeth", "iris"),
}
"""Landmarks that only one layer follows; the others move all three."""

RELAXED: Moves = {
    "corner": [(4.8, 6.2)],
    "lip_up": [(3.4, 4.8), (1, 2.6)],
    "lip_up_mid": [(0, 1.4)],
    "lip_up_in": [(3.2, 4.1), (0.9, 2.6)],
    "lip_up_in_mid": [(0, 1.5)],
    "lip_low_in": [(3.2, 0.7), (0.9, -3.2)],
    "lip_low_in_mid": [(0, -3.9)],
    "lip_low": [(3.4, 0.3), (1, -2.3)],
    "lip_low_mid": [(0, -3.0)],
    "fold": [(1.8, 2)],
    "cheek": [(0, 1.5)],
    "wing": [(0.8, 0.3)],
    "lid_low": [(0, 0.4), (0, 0.5), (0, 0.4)],
    "chin_crease": [(0, -0.6)],
}
"""From the portrait's smile to a resting face."""

EXPRESSIONS: dict[str, Moves] = {
    "neutral": {},
    "happy": {
        "corner": [(-7, -8)],
        "lip_up": [(-4.4, -5.4), (-1.4, -2.8)],
        "lip_up_mid": [(0, -1.4)],
        "lip_up_in": [(-4.4, -4.6), (-1.2, -2.5)],
        "lip_up_in_mid": [(0, -1.6)],
        "lip_low_in": [(-3.8, -1.4), (-1.2, 2.9)],
        "lip_low_in_mid": [(0, 3.8)],
        "lip_low": [(-4.2, -0.6), (-1.2, 2.6)],
        "lip_low_mid": [(0, 3.4)],
        "fold": [(-3, -3)],
        "cheek": [(-0.5, -4)],
        "under_eye": [(0, -2.2)],
        "lid_low": [(0, -1.5), (0, -2.2), (0, -1.4)],
        "lid_up": [(0, 0.2), (0, 0.5), (0, 0.3)],
        "wing": [(-1.4, -0.6)],
        "chin_crease": [(0, 1.6)],
        "chin": [(0, 0.8)],
    },
    "sad": {
        "brow": [(0, 3), (1, -1), (2.2, -5.5)],
        "lid_up": [(0, 2.6), (0, 1.8), (0, 0)],
        "corner": [(1, 5.4)],
        "lip_up": [(0.6, 3), (0.3, 0.2)],
        "lip_up_mid": [(0, -0.8)],
        "lip_up_in": [(0.6, 2.6), (0.3, 0)],
        "lip_up_in_mid": [(0, -0.8)],
        "lip_low_in": [(0.6, 2.6), (0.3, 0)],
        "lip_low_in_mid": [(0, -0.8)],
        "lip_low": [(0.6, 2.8), (0.3, 0.4)],
        "lip_low_mid": [(0, -0.6)],
        "chin_crease": [(0, -2)],
        "chin": [(0, -1.2)],
        "fold": [(0.5, 2)],
        "cheek": [(0, 1)],
    },
    "angry": {
        "brow": [(0, -1.5), (2.5, 3.6), (4.6, 5.8)],
        "nasion": [(0, 1.2)],
        "lid_up": [(0, 0.4), (0, 1.7), (0, 2.4)],
        "lid_low": [(0, -0.6), (0, -1.3), (0, -1)],
        "wing": [(-1.6, -1)],
        "corner": [(1.6, 2)],
        "lip_up": [(1.2, 2.2), (0.6, 2.2)],
        "lip_up_mid": [(0, 2.6)],
        "lip_up_in": [(1.2, 1.4), (0.6, 0.5)],
        "lip_up_in_mid": [(0, 0.1)],
        "lip_low_in": [(1.2, 1.4), (0.6, 0.5)],
        "lip_low_in_mid": [(0, 0.1)],
        "lip_low": [(1.2, 0.4), (0.6, -1.6)],
        "lip_low_mid": [(0, -2.4)],
        "chin_crease": [(0, -2)],
        "chin": [(0, -0.8)],
    },
    "surprise": {
        "brow": [(0, -5), (0, -6.5), (-0.5, -5.6)],
        "hairline": [(0, -1), (0, -1)],
        "lid_up": [(0, -2), (0, -2.7), (0, -2.2)],
        "lid_low": [(0, 0.6), (0, 0.9), (0, 0.6)],
        "cheek": [(0.6, 2)],
        "fold": [(2, 2.4)],
        "corner": [(5, 5)],
        "lip_up": [(3, 1), (1.2, -0.8)],
        "lip_up_mid": [(0, -1.2)],
        "lip_up_in": [(3.2, 0.6), (1.2, -1.2)],
        "lip_up_in_mid": [(0, -1.6)],
        "lip_low_in": [(2.6, 10), (0.4, 13)],
        "lip_low_in_mid": [(0, 13.6)],
        "lip_low": [(3, 11), (0.4, 13)],
        "lip_low_mid": [(0, 13)],
        "chin_crease": [(0, 11.4)],
        "chin": [(0, 8.8)],
        "jowl": [(0.6, 7.5)],
        "jaw": [(0, 0.8), (1.2, 4)],
    },
    "disgust": {
        "brow": [(0, 1.2), (1.6, 3), (3.2, 4.2)],
        "nasion": [(0, 0.8)],
        "lid_up": [(0, 0.8), (0, 1.5), (0, 1.4)],
        "lid_low": [(0, -1.8), (0, -2.3), (0, -1.5)],
        "under_eye": [(0, -2.4)],
        "cheek": [(0.4, -4)],
        "nose": [(0, -1.6)],
        "wing": [(-1.8, -3.6)],
        "fold": [(-0.6, -1.8)],
        "corner": [(-0.5, 1.6)],
        "lip_up": [(-0.4, -1), (-0.5, -4.4)],
        "lip_up_mid": [(0, -3.6)],
        "lip_up_in": [(-0.4, -0.4), (-0.4, -3.4)],
        "lip_up_in_mid": [(0, -2.9)],
        "lip_low_in": [(-0.4, 2.4), (0, 0.6)],
        "lip_low_in_mid": [(0, -0.2)],
        "lip_low": [(-0.4, 2), (0, 0.6)],
        "lip_low_mid": [(0, 0.4)],
        "chin_crease": [(0, -1)],
    },
    "fear": {
        "brow": [(0.4, -1), (1.6, -4.4), (3, -5.6)],
        "lid_up": [(0, -1.4), (0, -2.5), (0, -2.4)],
        "lid_low": [(0, 0.3), (0, 0.2), (0, 0)],
        "corner": [(-4.6, 3.4)],
        "fold": [(-2, 2.4)],
        "cheek": [(-0.6, 0.6)],
        "lip_up": [(-3.6, 2), (-1.2, 0.2)],
        "lip_up_mid": [(0, 0.2)],
        "lip_up_in": [(-3.8, 0.8), (-1.2, -0.8)],
        "lip_up_in_mid": [(0, -0.9)],
        "lip_low_in": [(-3.6, 5.4), (-1.6, 5.8)],
        "lip_low_in_mid": [(0, 5.6)],
        "lip_low": [(-3.8, 5.8), (-1.8, 6.2)],
        "lip_low_mid": [(0, 6)],
        "chin_crease": [(0, 5)],
        "chin": [(0, 3.6)],
        "jowl": [(-1, 3)],
        "jaw": [(-0.6, 0.4), (-0.8, 1.6)],
    },
}
"""From the resting face to the apex."""

BLINK: Moves = {
    "brow": [(0, -0.6)] * 3,
    "lid_up": [(0, 4.8), (0, 7.4), (0, 6.2)],
    "lid_low": [(0, -0.6)] * 3,
}
"""From open eyes to shut ones; the brows' move makes up for the pull of the lids."""

CREASES: dict[str, dict[str, float]] = {
    "neutral": {},
    "happy": {"folds": 1.0, "eyes": 0.16},
    "sad": {"cheeks": 0.14, "frown": 0.1, "forehead": 0.1},
    "angry": {"cheeks": 0.14, "frown": 0.24, "nose": 0.08},
    "surprise": {"forehead": 0.14},
    "disgust": {"cheeks": 0.24, "frown": 0.14, "nose": 0.18, "eyes": 0.14},
    "fear": {"cheeks": 0.12, "frown": 0.1, "forehead": 0.12},
}
"""How deep each kind of wrinkle is at the apex: share of the light that it takes; `folds`: share of the smile's own."""


@dataclass(frozen=True)
class Fields:
    """Forward displacement of each layer on its grid: float32 (SIZE_PX / STEP_PX, same, 2), x and y in pixels."""

    upper: np.ndarray
    lower: np.ndarray
    inner: np.ndarray

    def plus(self, other: "Fields", weight: float) -> "Fields":
        """These displacements and `weight` times the other ones."""
        return Fields(*(a + np.float32(weight) * b for a, b in zip(self.layers, other.layers, strict=True)))

    @property
    def layers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.upper, self.lower, self.inner


def fields(moves: Moves, left: float = 1.0, right: float = 1.0) -> Fields:
    """Spread the moves of landmarks over the layers; `left` and `right` scale the two halves of the picture."""
    return Fields(*(_spread(layer, moves, left, right) for layer in _BY_LAYER))


def _spread(layer: str, moves: Moves, left: float, right: float) -> np.ndarray:
    names, spread = _spline(layer)
    rows: list[tuple[float, float]] = []
    for name in names:
        move = moves.get(name)
        if name in _SIDED:
            count = len(_SIDED[name][0])
            move = move or [(0.0, 0.0)] * count
            rows += [(dx * left, dy * left) for dx, dy in move] + [(-dx * right, dy * right) for dx, dy in move]
        else:
            mean = (left + right) / 2
            rows += [(dx * mean, dy * mean) for dx, dy in move or [(0.0, 0.0)]]
    cells = SIZE_PX // STEP_PX
    # einsum and not matmul: its sums do not depend on the number of BLAS threads, so neither do the clips' bytes
    return np.einsum("gn,nc->gc", spread, np.array(rows, np.float32)).reshape(cells, cells, 2)


@cache
def _spline(layer: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of a layer's landmarks, and how much each point of theirs moves each grid point (thin-plate spline)."""
    others = {name for key, only in _BY_LAYER.items() if key != layer for name in only} - set(_BY_LAYER[layer])
    names = tuple(name for name in (*_SIDED, *_MIDDLE) if name not in others)
    points = [p for n in names for p in ((*_SIDED[n][0], *_SIDED[n][1]) if n in _SIDED else (_MIDDLE[n],))]
    moving, nodes = len(points), (np.array([*points, *_BORDER]) - 224) / 100
    cells = SIZE_PX // STEP_PX
    at = (np.arange(cells) * STEP_PX + (STEP_PX - 1) / 2)[:, None]
    grid = np.stack(np.meshgrid(at + ORIGIN[0], at + ORIGIN[1]), -1).reshape(-1, 2)
    system = np.zeros((len(nodes) + 3,) * 2)
    system[: len(nodes), : len(nodes)] = _kernel(nodes, nodes) + STIFFNESS * np.eye(len(nodes))
    system[: len(nodes), len(nodes) :] = _affine(nodes)
    system[len(nodes) :, : len(nodes)] = _affine(nodes).T
    weights = np.linalg.inv(system)[:, :moving]
    grid = (grid - 224) / 100
    spread = np.concatenate([_kernel(grid, nodes), _affine(grid)], 1) @ weights
    return names, np.round(spread, 6).astype(np.float32)


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = ((a[:, None] - b[None]) ** 2).sum(-1)
    return squared * np.log(np.maximum(squared, 1e-12)) / 2


def _affine(points: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((len(points), 1)), points], 1)
