"""Sampled frames of a video: decord where it is frame-exact, PyAV elsewhere and for damaged files."""

import contextlib
import ctypes
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import av
import numpy as np

from preprocessing.config import DecodeSettings
from preprocessing.container import Facts, open_video, probe, video_stream
from preprocessing.errors import ClipError, RejectKind
from preprocessing.frames import Frames
from preprocessing.sampling import choose

# Measured against PyAV: decord 0.6 gives wrong frames without an error outside of these.
_EXACT_FORMATS = ("mov", "matroska")
_EXACT_CODECS = ("h264", "hevc", "vp8", "vp9", "mjpeg")
_AV_LOG_ERROR = 16
_LOG_PREFIX = re.compile(r"\[[\d:]+\] \S+:\d+: ")


class DecordError(Exception):
    """decord cannot be trusted with this file; the message says why."""


def read_video(path: str, frames: int, settings: DecodeSettings) -> Frames:
    """Decode `frames` frames of a video, evenly spaced in presentation time.

    Damage is noticed as far as container and codec show it; damage that stays inside the payload of one
    compressed picture can look like a valid stream, for these formats carry no checksums.

    Raises:
        ClipError: not_media, truncated, unreadable, no_video, too_large.
    """
    facts = probe(path, settings.max_megapixels)
    if settings.decoder == "decord" or (settings.decoder == "auto" and decord_is_exact(facts)):
        try:
            return _read_decord(facts, frames)
        except DecordError as error:
            if settings.decoder == "decord":
                raise ClipError(
                    RejectKind.UNREADABLE, "decode", f"{path}: {error}; decode.decoder=auto would try PyAV"
                ) from None
    return _read_pyav(facts, frames, settings)


def decord_is_exact(facts: Facts) -> bool:
    """Whether decord gives exactly the frames that the container shows."""
    return (
        facts.format.startswith(_EXACT_FORMATS)
        and facts.codec in _EXACT_CODECS
        and facts.video_streams == 1
        and facts.clocked
        and not facts.hidden
        and facts.declared_frames in (0, len(facts.order))
        and facts.damage is None
    )


def _read_decord(facts: Facts, frames: int) -> Frames:
    decord, errors = _decord()
    if not facts.order:
        raise DecordError("the container shows no frame")
    times = facts.times
    positions = choose(times, frames, facts.end)
    before = errors()
    try:
        reader = decord.VideoReader(facts.path, ctx=decord.cpu(0), num_threads=1)
        count = len(reader)
        if count != len(times):
            raise DecordError(f"decord counts {count} frames, the container shows {len(times)}")
        images = reader.get_batch(positions).asnumpy()
        del reader  # its decoding thread has then reported everything
    except decord.DECORDError as error:
        raise DecordError(f"decord fails: {_LOG_PREFIX.sub('', str(error)).splitlines()[0][:200]}") from None
    if errors() != before:
        raise DecordError(f"decord meets {errors() - before} errors in the stream")
    return _frames(facts, times, positions, list(images), decord=decord.__version__)


@cache
def _decord() -> tuple[ModuleType, Callable[[], int]]:
    """decord, and a count of the errors that its decoders have met.

    decord 0.6 conceals damage: libavcodec reports it to its log only, so the log is counted.
    """
    import decord
    from decord._ffi.base import _LIB

    seen = 0

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    def log(_context: int, level: int, _format: bytes, _arguments: int) -> None:
        nonlocal seen
        seen += 0 <= level <= _AV_LOG_ERROR

    try:
        _LIB.av_log_set_callback(log)
    except AttributeError:
        raise DecordError("this build of decord does not report damaged streams") from None

    def count(_keep: object = log) -> int:
        return seen

    return decord, count


@dataclass
class _Run:
    """What one run through the stream gave."""

    images: dict[int, np.ndarray]
    times: list[int]
    """Presentation times of the clean frames, ascending."""
    damage: str | None


def _read_pyav(facts: Facts, frames: int, settings: DecodeSettings) -> Frames:
    expected = facts.times if facts.clocked else []
    positions = choose(expected, frames, facts.end)
    run = _run(facts, {expected[i] for i in positions}, settings)
    damage = facts.damage or run.damage
    if not run.times:
        kind = RejectKind.TRUNCATED if facts.damage else RejectKind.UNREADABLE
        raise ClipError(kind, "decode", f"{facts.path}: no frame decodes cleanly: {damage or 'the stream is empty'}")
    if damage and not settings.salvage:
        raise ClipError(RejectKind.TRUNCATED, "decode", f"{facts.path}: {damage} (decode.salvage is off)")
    if run.times != expected:
        positions = choose(run.times, frames)
        run = _run(facts, {run.times[i] for i in positions}, settings)
    images = [run.images[run.times[i]] for i in positions]
    return _frames(facts, run.times, positions, images, salvaged=damage is not None)


def _run(facts: Facts, wanted: set[int], settings: DecodeSettings) -> _Run:
    """Decode the whole stream, keep the wanted pictures, and tell the clean frames from the damaged ones.

    Clean is what was decoded before the first damage: a frame that is shown before it may already refer to it.
    """
    images: dict[int, np.ndarray] = {}
    order: dict[int, int] = {}
    damage: dict[int, str] = {}
    size = None
    for number, frame, fault in _decode(facts.path, settings.max_megapixels):
        if frame is None:
            damage.setdefault(number, fault)
            continue
        time = frame.pts if facts.clocked else len(order)
        order[time] = facts.order.get(time, number) if facts.clocked else number
        if frame.is_corrupt:
            damage.setdefault(order[time], f"the decoder conceals errors in frame {len(order) - 1}")
        size = size or (frame.width, frame.height)
        if time in wanted:
            images[time] = _upright_rgb(frame, size)
    first = min(damage, default=None)
    clean = sorted(time for time, at in order.items() if first is None or at < first)
    return _Run(images, clean, None if first is None else damage[first])


def _decode(path: str, max_megapixels: float) -> Iterator[tuple[int, av.VideoFrame | None, str]]:
    """Yield (packet number, frame, "") for every frame, and (packet number, None, fault) for what is damaged."""
    number = 0
    with open_video(path) as container:
        stream = video_stream(container, path)
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(int(max_megapixels * 1e6))}
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    yield number, None, f"packet {number} is cut or damaged"
                for frame in packet.decode():
                    yield number, frame, ""
                number += bool(packet.size)
        except av.error.FFmpegError as error:
            yield number, None, f"packet {number} does not decode ({error.strerror})"
            with contextlib.suppress(av.error.FFmpegError):
                for frame in stream.codec_context.decode(None):
                    yield number, frame, ""


def _upright_rgb(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """RGB in display orientation, scaled to `size` (width, height) if the stream changes its size midway."""
    image = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4))


def _frames(
    facts: Facts,
    times: Sequence[int],
    positions: Sequence[int],
    images: list[np.ndarray],
    *,
    salvaged: bool = False,
    decord: str | None = None,
) -> Frames:
    fps = facts.fps or math.nan
    to_ms = float(facts.time_base * 1000) if facts.clocked else 1000 / fps
    return Frames(
        images=images,
        index=list(positions),
        timestamp_ms=[(times[i] - times[0]) * to_ms for i in positions],
        width=images[0].shape[1],
        height=images[0].shape[0],
        fps=facts.fps,
        frame_count=len(times),
        codec=facts.codec,
        decoder="decord" if decord else "pyav",
        decoder_version=decord or av.__version__,
        salvaged=salvaged,
    )
