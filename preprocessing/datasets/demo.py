"""The demo's data set: synthetic people show seven expressions, as H.264 clips in DFEW's own tree.

Every picture is a warp of one public-domain portrait, so nothing is downloaded and no licence is needed. The same
seed and library versions give the same bytes.
"""

import csv
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from preprocessing.datasets.demo_clip import CLIP_PX, film
from preprocessing.datasets.demo_subject import Subject, subject
from preprocessing.labels import EMOTIONS

RENDERER = 3
"""Version of the pictures: goes up whenever the same parameters give others."""
FPS = 25
FOLDS = 5
FACTS = "demo.json"
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


def render(
    root: Path | str,
    *,
    seed: int = 0,
    subjects: int = 15,
    expressions: Sequence[str] = EMOTIONS,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DemoSummary:
    """Render the data set; a complete one of the same parameters is left as it is, an interrupted one is completed.

    Args:
        root: becomes a tree like DFEW's, with `subjects.csv` (video_name,subject) and `demo.json`, written last.
        subjects: synthetic people, at least 5; each shows every expression once.
        processes: default: one per CPU; 1 renders in this process.
        progress: called with the clips done and the clips in all.

    Raises:
        DemoError: wrong parameters, or the folder holds another data set.
    """
    root, started = Path(root), time.perf_counter()
    parameters = _parameters(seed, subjects, expressions)
    clips = _plan(seed, subjects, expressions)
    bad = {str(clip.number): clip.bad for clip in clips if clip.bad}
    complete = _open(root, parameters)
    if not complete:
        _render_all(root, seed, subjects, clips, processes or os.cpu_count() or 1, progress)
        _write_tables(root, clips)
        _write(root / FACTS, json.dumps({**parameters, "clips": len(clips), "bad": bad}, indent=1).encode())
        _unfinished(root).unlink()
    return DemoSummary(root, len(clips), len(bad), subjects, time.perf_counter() - started, rendered=not complete)


def _parameters(seed: int, subjects: int, expressions: Sequence[str]) -> dict[str, Any]:
    if subjects < FOLDS:
        raise DemoError(f"subjects = {subjects}: at least {FOLDS} are needed, one for the test part of each fold")
    unknown = [e for e in expressions if e not in EMOTIONS]
    if unknown or not expressions or len(set(expressions)) < len(expressions):
        raise DemoError(f"expressions = {list(expressions)}: name some of {', '.join(EMOTIONS)}, each once")
    if seed < 0:
        raise DemoError(f"seed = {seed}: must not be negative")
    return {"renderer": RENDERER, "seed": seed, "subjects": subjects, "expressions": list(expressions)}


def _open(root: Path, parameters: dict[str, Any]) -> bool:
    """Whether the folder is complete already; prepares it when it is not."""
    for path in (root / FACTS, _unfinished(root)):
        if not path.exists():
            continue
        there = json.loads(path.read_text(encoding="utf-8"))
        there = {name: there.get(name) for name in parameters}
        if there != parameters:
            raise DemoError(
                f"{root} holds demo data of {there}, asked for was {parameters}: give another folder or remove this one"
            )
        return path.name == FACTS
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DemoError(f"{root} is in use for something else: give an empty folder")
    (root / "Clip" / "original").mkdir(parents=True)
    _write(_unfinished(root), json.dumps(parameters).encode())
    return False


def _unfinished(root: Path) -> Path:
    return root / f"{FACTS}.unfinished"


def _plan(seed: int, subjects: int, expressions: Sequence[str]) -> list[Clip]:
    """Good clips in shuffled numbers, bad ones among them with labels and subjects of their own."""
    rng = np.random.default_rng((seed, 1))
    wanted = [(s, label, None) for s in range(subjects) for label in expressions]
    wanted += [(int(rng.integers(subjects)), str(rng.choice(expressions)), bad) for bad in BAD]
    numbers = rng.permutation(len(wanted)) + 1
    return [Clip(int(number), *entry) for number, entry in zip(numbers, wanted, strict=True)]


def _render_all(
    root: Path,
    seed: int,
    subjects: int,
    clips: list[Clip],
    processes: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    folder, done = root / "Clip" / "original", 0
    tasks = [(folder, seed, number, [c for c in clips if c.subject == number]) for number in range(subjects)]
    if processes == 1:
        for task in tasks:
            done += _render_subject(*task)
            if progress is not None:
                progress(done, len(clips))
        return
    with ProcessPoolExecutor(min(processes, subjects), get_context("spawn"), _single_thread) as pool:
        for future in as_completed([pool.submit(_render_subject, *task) for task in tasks]):
            done += future.result()
            if progress is not None:
                progress(done, len(clips))


def _single_thread() -> None:
    cv2.setNumThreads(1)


def _render_subject(folder: Path, seed: int, number: int, clips: list[Clip]) -> int:
    """Render what is not there yet of one subject's clips; returns how many there are now."""
    person = _person(seed, number)
    for clip in clips:
        path = folder / f"{clip.number}.mp4"
        if not path.exists():
            _write(path, _clip_bytes(person, clip, np.random.default_rng((seed, 3, clip.number))))
    return len(clips)


def _person(seed: int, number: int) -> Subject:
    """Skin tones and hair colours are spread evenly over the subjects, the rest is drawn."""
    start = np.random.default_rng((seed, 4)).random()
    rng = np.random.default_rng((seed, 2, number))
    return subject(rng, tone=(start + number * 0.618) % 1, hair=int(start * 7) + 3 * number + number // 7)


def _clip_bytes(person: Subject, clip: Clip, rng: np.random.Generator) -> bytes:
    if clip.bad == "empty":
        return b""
    if clip.bad == "text":
        return b"<html><body>404 Not Found: this is no video, the download was an error page.</body></html>\n" * 20
    video = _encode(film(person, clip.label, rng, face=clip.bad != "no_face"))
    return video[: len(video) * 2 // 5] if clip.bad == "truncated" else video


def _encode(frames: list[np.ndarray]) -> bytes:
    """H.264 in mp4; its index lies at the end, so that a truncated copy cannot be opened."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "21", "preset": "superfast"})
        stream.width = stream.height = CLIP_PX
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FPS)
        stream.codec_context.thread_count = 1  # more threads cut the picture elsewhere: other bytes on other machines
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def _write_tables(root: Path, clips: list[Clip]) -> None:
    """DFEW's set_1.csv .. set_5.csv: the test parts share the subjects out among them."""
    clips = sorted(clips, key=lambda clip: clip.number)
    for fold in range(FOLDS):
        for part in ("train", "test"):
            rows = [clip for clip in clips if (clip.subject % FOLDS == fold) == (part == "test")]
            path = root / "EmoLabel_DataSplit" / f"{part}(single-labeled)" / f"set_{fold + 1}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, _csv("label", [(clip.number, EMOTIONS.index(clip.label) + 1) for clip in rows]))
    _write(root / "subjects.csv", _csv("subject", [(clip.number, f"s{clip.subject:02d}") for clip in clips]))


def _csv(column: str, rows: list[tuple[int, int | str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("video_name", column), *rows])
    return text.getvalue().encode()


def _write(path: Path, data: bytes) -> None:
    """Atomic: a reader sees the whole file or none."""
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_bytes(data)
    fresh.replace(path)
