"""Small synthetic media for tests; every picture carries its own frame number, readable after any codec."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

BITS = 8
WIDTH, HEIGHT = 128, 96


def numbered(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Picture uint8 H,W,3 that shows `number` (0..255) as eight bars, over a lower half of dark noise."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[height // 2 :] = np.random.default_rng(number).integers(0, 90, (height - height // 2, width, 3))
    for bit in range(BITS):
        if number >> bit & 1:
            image[: height // 2, bit * width // BITS : (bit + 1) * width // BITS] = 220
    return image


def number_of(image: np.ndarray) -> int:
    """Frame number that a picture of `numbered` shows; fails on a picture that is turned or damaged."""
    height, width = image.shape[:2]
    assert image[height * 3 // 4 :].mean() < 110, "the lower half is not dark: the picture is turned or damaged"
    bars = image[height // 8 : height * 3 // 8].mean(axis=(0, 2)).reshape(BITS, width // BITS).mean(axis=1)
    assert np.all((bars < 60) | (bars > 160)), f"unreadable bars: {bars.round()}"
    return sum(int(bar > 110) << bit for bit, bar in enumerate(bars))


def write_video(
    path: Path,
    frames: int = 30,
    *,
    fps: int = 25,
    codec: str = "libx264",
    times_ms: Sequence[int] | None = None,
    rotation: int = 0,
    hidden: int = 0,
    pictures: Sequence[np.ndarray] | None = None,
    options: dict[str, str] | None = None,
    title: str = "",
) -> Path:
    """Write a video of numbered frames (or of `pictures`); an mp4 has its index in front.

    `times_ms` gives a variable frame rate; `rotation` (degrees, a multiple of 90) stores turned pictures with a
    display matrix that turns them back; an edit list of the mp4 hides the first `hidden` frames.
    """
    pictures = [numbered(i) for i in range(frames)] if pictures is None else pictures
    stored = [np.ascontiguousarray(np.rot90(picture, -rotation // 90)) for picture in pictures]
    unit = Fraction(1, 1000) if times_ms is not None else Fraction(1, fps)
    muxer = {"movflags": "+faststart", "avoid_negative_ts": "disabled"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=muxer) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = stored[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        container.metadata["title"] = title
        stream.codec_context.time_base = unit
        if rotation:
            stream.set_display_rotation(rotation)
        for i, picture in enumerate(stored):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = times_ms[i] if times_ms is not None else i - hidden
            frame.time_base = unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_audio(path: Path, seconds: float = 1.0, cover: np.ndarray | None = None) -> Path:
    """Write an mp4 that holds a tone and no video, at most a cover picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        if cover is not None:
            art = container.add_stream("mjpeg", rate=1)
            art.height, art.width, art.pix_fmt = *cover.shape[:2], "yuvj420p"
            art.disposition = av.stream.Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(cover, format="rgb24")
            frame.pts = 0
            container.mux([*art.encode(frame), *art.encode()])
        tone = np.sin(np.arange(int(seconds * 16000)) * 0.2).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = 16000
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode()])
    return path


def cut(path: Path, share: float, target: Path) -> Path:
    """Copy the first `share` of a file's bytes."""
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def write_frames(folder: Path, numbers: Sequence[int], name: str = "{:d}.jpg") -> list[Path]:
    """Write a frame folder: one JPEG per number, named by `name`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name.format(number) for number in numbers]
    for number, path in zip(numbers, paths, strict=True):
        Image.fromarray(numbered(number)).save(path, quality=95)
    return paths
