"""The demo's data set: synthetic people show seven expressions, as H.264 clips in DFEW's own tree.

Every picture is a warp of one public-domain portrait, so nothing is downloaded and no licence is needed. The same
seed and library versions give the same bytes.
"""

import csv
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av
import cv2
import numpy as np

from preprocessing.datasets import demo_face
from preprocessing.datasets.demo_face import FACE_PX, Pose
from preprocessing.labels import EMOTIONS

VERSION = 1
CLIP_PX = 256
FPS = 25
FOLDS = 5
FACTS, STARTED = "demo.json", "started.json"
BAD = ("truncated", "no_face", "empty", "text")
"""One clip of each kind, listed in the CSV files like any other."""


class DemoError(ValueError):
    """Wrong parameters, or a folder that holds something else."""


@dataclass(frozen=True)
class DemoSummary:
    """What is in the folder, and whether this call rendered it."""

    root: Path
    clips: int
    """All clips, the bad ones among them."""
    bad: int
    subjects: int
    seconds: float
    rendered: bool


@dataclass(frozen=True)
class Clip:
    """One clip to render."""

    number: int
    subject: int
    label: str
    bad: str | None
    path: str
    seed: int


@dataclass(frozen=True)
class Subject:
    """A synthetic person: the matte portrait in other proportions, colours and light, before a background."""

    picture: np.ndarray
    """uint8 FACE_PX, FACE_PX, 4: RGB and alpha."""
    shape: tuple[np.ndarray, np.ndarray]
    """Backward map (x, y) of the proportions, float32 FACE_PX, FACE_PX each."""
    background: np.ndarray
    """float32 CLIP_PX, CLIP_PX, 3."""
    light: np.ndarray
    """float32 CLIP_PX, CLIP_PX, 1: gain."""
    mirrored: bool
    blur_px: float
    noise: float


def render(
    root: Path | str,
    *,
    seed: int = 0,
    subjects: int = 15,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DemoSummary:
    """Render the data set; a complete one of the same parameters is left as it is, an interrupted one is completed.

    Args:
        root: becomes a tree like DFEW's, with `subjects.csv` (video_name, subject) beside it.
        subjects: synthetic people, at least 5; each shows the seven expressions once.
        processes: default: one per CPU.
        progress: called with the clips done and the clips in all.

    Raises:
        DemoError: wrong parameters, or the folder holds something else.
    """
    root, started = Path(root), time.perf_counter()
    facts = _facts(seed, subjects)
    clips = _plan(root, seed, subjects)
    complete = _open(root, facts)
    if not complete:
        _render_all(clips, seed, subjects, processes or os.cpu_count() or 1, progress)
        _write_tables(root, clips)
        _write_text(root / FACTS, json.dumps(facts | {"bad": {str(c.number): c.bad for c in clips if c.bad}}, indent=1))
    bad = sum(c.bad is not None for c in clips)
    seconds = 0.0 if complete else time.perf_counter() - started
    return DemoSummary(root, len(clips), bad, subjects, round(seconds, 2), not complete)


def _facts(seed: int, subjects: int) -> dict[str, int]:
    if subjects < FOLDS:
        raise DemoError(f"subjects = {subjects}: at least {FOLDS} are needed, one for each fold's test part")
    if seed < 0:
        raise DemoError(f"seed = {seed}: must not be negative")
    return {"version": VERSION, "seed": seed, "subjects": subjects}


def _open(root: Path, facts: dict[str, int]) -> bool:
    """Whether the folder holds the complete set already; a started one is told by its facts file."""
    started = root / STARTED
    for path in (root / FACTS, started):
        if path.exists():
            there = {k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if k in facts}
            if there != facts:
                raise DemoError(f"{root} holds demo data of {there}, not of {facts}: give another folder or remove it")
    if (root / FACTS).exists():
        return True
    if not started.exists() and root.exists() and any(root.iterdir()):
        raise DemoError(f"{root} is in use for something else: give an empty folder")
    (root / "Clip" / "original").mkdir(parents=True, exist_ok=True)
    _write_text(started, json.dumps(facts))
    return False


def _render_all(
    clips: list[Clip], seed: int, subjects: int, processes: int, progress: Callable[[int, int], None] | None
) -> None:
    done = 0
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(_render_subject, seed, subject, [c for c in clips if c.subject == subject])
            for subject in range(subjects)
        ]
        for job in as_completed(jobs):
            done += job.result()
            if progress is not None:
                progress(done, len(clips))


def _plan(root: Path, seed: int, subjects: int) -> list[Clip]:
    """Good clips in a shuffled numbering, bad ones among them with labels and subjects of their own."""
    rng = np.random.default_rng((seed, 1))
    wanted = [(s, label, None) for s in range(subjects) for label in EMOTIONS]
    wanted += [(int(rng.integers(subjects)), str(rng.choice(EMOTIONS)), bad) for bad in BAD]
    numbers = rng.permutation(len(wanted)) + 1
    folder = root / "Clip" / "original"
    return [
        Clip(int(n), s, label, bad, str(folder / f"{n}.mp4"), seed)
        for n, (s, label, bad) in zip(numbers, wanted, strict=True)
    ]


def _write_tables(root: Path, clips: list[Clip]) -> None:
    """DFEW's set_1.csv .. set_5.csv: the test parts share the subjects out among them."""
    for fold in range(1, FOLDS + 1):
        for part in ("train", "test"):
            rows = [c for c in clips if (c.subject % FOLDS == fold - 1) == (part == "test")]
            table = [(c.number, EMOTIONS.index(c.label) + 1) for c in sorted(rows, key=lambda c: c.number)]
            path = root / "EmoLabel_DataSplit" / f"{part}(single-labeled)" / f"set_{fold}.csv"
            _write_csv(path, ("video_name", "label"), table)
    subjects = [(c.number, f"s{c.subject:02d}") for c in sorted(clips, key=lambda c: c.number)]
    _write_csv(root / "subjects.csv", ("video_name", "subject"), subjects)


def _render_subject(seed: int, number: int, clips: list[Clip]) -> int:
    cv2.setNumThreads(1)
    subject = _subject(np.random.default_rng((seed, 2, number)))
    for clip in clips:
        target = Path(clip.path)
        if target.exists():
            continue
        fresh = target.with_suffix(".tmp")
        rng = np.random.default_rng((clip.seed, 3, clip.number))
        if clip.bad == "empty":
            fresh.write_bytes(b"")
        elif clip.bad == "text":
            fresh.write_text("This is no video: the download was an error page.\n" * 40, encoding="utf-8")
        else:
            _encode(fresh, _frames(subject, clip, rng))
        if clip.bad == "truncated":
            data = fresh.read_bytes()
            fresh.write_bytes(data[: len(data) * 2 // 5])
        fresh.replace(target)
    return len(clips)


def _subject(rng: np.random.Generator) -> Subject:
    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    picture = demo_face.portrait().copy()
    tone = np.array([between(0.72, 1.08)] * 3) * [between(0.94, 1.08), 1.0, between(0.85, 1.08)]
    gamma, saturation = between(0.8, 1.25), between(0.6, 1.25)
    rgb = 255 * np.power(picture[..., :3] / 255, gamma)
    grey = rgb.mean(-1, keepdims=True)
    picture[..., :3] = np.clip((grey + (rgb - grey) * saturation) * tone, 0, 255)
    ramp = np.linspace(-1, 1, CLIP_PX, dtype=np.float32)
    slope_x, slope_y = between(-0.3, 0.3), between(-0.15, 0.15)
    light = 1 + slope_x * ramp[None, :, None] + slope_y * ramp[:, None, None]
    return Subject(
        picture=picture,
        shape=demo_face.backward_map(_proportions(rng)),
        background=_background(rng),
        light=light.astype(np.float32),
        mirrored=bool(rng.random() < 0.5),
        blur_px=between(0.0, 0.9),
        noise=between(1.0, 4.0),
    )


def _proportions(rng: np.random.Generator) -> np.ndarray:
    """Widths and lengths of jaw, nose, eyes' distance and head, as one smooth displacement field."""
    y, x = np.mgrid[0:FACE_PX, 0:FACE_PX].astype(np.float32)
    across, field = x - demo_face.MIDLINE_X, np.zeros((FACE_PX, FACE_PX, 2), np.float32)

    def bump(centre_y: float, reach: float) -> np.ndarray:
        return np.exp(-((y - centre_y) ** 2) / (2 * reach**2))

    rows = {name: float(demo_face.LANDMARKS[name][:, 1].mean()) for name in ("chin", "nose", "eye_ends", "hair")}
    field[..., 0] += across * rng.uniform(-0.14, 0.14) * bump(rows["chin"] - 20, 25)
    field[..., 0] += across * rng.uniform(-0.10, 0.10) * bump(rows["eye_ends"], 18)
    field[..., 0] += across * rng.uniform(-0.12, 0.12) * bump(rows["hair"] - 40, 40)
    inner = np.exp(-(across**2) / (2 * 14**2))
    field[..., 0] += across * rng.uniform(-0.2, 0.3) * inner * bump(rows["nose"], 9)
    field[..., 1] += rng.uniform(-4, 5) * inner * bump(rows["nose"], 10)
    field[..., 1] += rng.uniform(-7, 8) * bump(rows["chin"], 28)
    return field


def _background(rng: np.random.Generator) -> np.ndarray:
    """Two blended colours with soft texture."""
    ends = rng.uniform(40, 215, (2, 1)) + rng.uniform(-30, 30, (2, 3))
    coarse = cv2.resize(rng.random((6, 6)).astype(np.float32), (CLIP_PX, CLIP_PX), interpolation=cv2.INTER_CUBIC)
    mixed = ends[0] + (ends[1] - ends[0]) * np.clip(coarse, 0, 1)[..., None]
    fine = cv2.GaussianBlur(rng.normal(0, 14, (CLIP_PX, CLIP_PX, 3)).astype(np.float32), (0, 0), 2)
    return np.clip(mixed + fine, 0, 255).astype(np.float32)


def _frames(subject: Subject, clip: Clip, rng: np.random.Generator) -> list[np.ndarray]:
    """uint8 CLIP_PX, CLIP_PX, 3 frames: neutral, apex, neutral, with head motion and a blink."""
    count = int(rng.integers(20, 31))
    neutral = demo_face.pose("neutral")
    halves = rng.uniform(0.8, 1.1, 2)
    shown = demo_face.pose(clip.label, *halves)
    course = _course(rng, count) * rng.uniform(0.75, 1.1)
    blink, closing = demo_face.displacement_field(demo_face.BLINK), _blink(rng, count)
    motion = _motion(rng, count)
    frames = []
    for t in range(count):
        mixed = neutral.mix(shown, float(course[t]))
        mixed = Pose(mixed.field + float(closing[t]) * blink, mixed.colour, mixed.cover)
        face = demo_face.show(subject.picture, mixed) if clip.bad != "no_face" else np.zeros_like(subject.picture)
        frames.append(_compose(subject, face, motion[t], rng))
    return frames


def _course(rng: np.random.Generator, count: int) -> np.ndarray:
    """Weight of the expression per frame: smooth rise, hold, smooth fall."""
    rise, fall = rng.uniform(0.15, 0.3, 2)
    start = rng.uniform(0.05, 0.2)
    at = np.linspace(0, 1, count)
    up = np.clip((at - start) / rise, 0, 1)
    down = np.clip((rng.uniform(0.85, 1.0) - at) / fall, 0, 1)
    return (up * up * (3 - 2 * up)) * (down * down * (3 - 2 * down))


def _blink(rng: np.random.Generator, count: int) -> np.ndarray:
    at, centre = np.arange(count), rng.uniform(0, count)
    return np.clip(1 - np.abs(at - centre) / 2.5, 0, 1)


def _motion(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Affine matrices (2, 3) of a slowly moving head, portrait to clip."""
    at = np.linspace(0, 1, count)

    def drift(amplitude: float) -> np.ndarray:
        waves = np.sin(2 * np.pi * (rng.uniform(0.3, 1.2) * at + rng.random()))
        return amplitude * (waves + rng.uniform(-0.7, 0.7))

    angle, scale, x, y = drift(4.0), 1 + drift(0.04), drift(6.0), drift(4.0)
    matrices = []
    for t in range(count):
        matrix = cv2.getRotationMatrix2D((CLIP_PX / 2, CLIP_PX / 2), float(angle[t]), float(scale[t]))
        matrix[:, 2] += [x[t], y[t]]
        matrices.append(matrix)
    return matrices


def _compose(subject: Subject, face: np.ndarray, matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Proportions, motion, background, light, blur and noise: the camera's picture."""
    shaped = cv2.remap(face, *subject.shape, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    moved = cv2.warpAffine(shaped, matrix, (CLIP_PX, CLIP_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if subject.mirrored:
        moved = np.ascontiguousarray(moved[:, ::-1])
    alpha = moved[..., 3:] * np.float32(1 / 255)
    picture = (subject.background + (moved[..., :3] - subject.background) * alpha) * subject.light
    if subject.blur_px > 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), subject.blur_px)
    picture += subject.noise * rng.standard_normal((*picture.shape[:2], 1), np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _encode(path: Path, frames: list[np.ndarray]) -> None:
    """H.264 in mp4; the index lies at the end, so that a truncated copy cannot be opened."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = CLIP_PX
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FPS)
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "23", "preset": "veryfast"}
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _write_csv(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    with fresh.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
    fresh.replace(path)


def _write_text(path: Path, text: str) -> None:
    fresh = path.with_suffix(".tmp")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
