"""Video, frame folder or picture -> the sampled RGB frames with their presentation times."""

import hashlib
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from preprocessing.config import DecodeSettings
from preprocessing.container import read_head
from preprocessing.errors import ClipError, RejectKind
from preprocessing.frames import Frames
from preprocessing.picture import DECODER, DECODER_VERSION, read_picture
from preprocessing.sampling import choose, frame_number
from preprocessing.video import read_video

__all__ = ["Frames", "decode", "source_sha256"]


def decode(media: str, uris: Sequence[str], frames: int, settings: DecodeSettings) -> Frames:
    """Decode `frames` frames, evenly spaced in presentation time, of a `video`, a `frames` folder or an `image`.

    A source with fewer frames gives all of them, once each.

    Raises:
        ClipError: missing, empty, unreadable, not_media, no_video, too_large or truncated.
    """
    if media == "video":
        check_file(uris[0])
        return read_video(uris[0], frames, settings)
    if media == "frames":
        return _read_folder(uris, frames, settings)
    if media == "image":
        return _read_image(uris[0], settings)
    raise ValueError(f"media = {media!r}: use video, frames or image")


def check_file(path: str) -> None:
    """Refuse what cannot hold media.

    Raises:
        ClipError: missing, empty, unreadable (no regular file, no permission), not_media (a git-lfs stub).
    """
    file = Path(path)
    try:
        if not file.exists():
            raise ClipError(RejectKind.MISSING, "read", f"{path}: does not exist")
        if not file.is_file():
            raise ClipError(RejectKind.UNREADABLE, "read", f"{path}: is not a regular file")
        head = read_head(path)
    except OSError as error:
        raise ClipError(RejectKind.UNREADABLE, "read", f"{path}: {error.strerror}") from None
    if not head:
        raise ClipError(RejectKind.EMPTY, "read", f"{path}: has zero bytes")
    if head.startswith(b"version https://git-lfs"):
        raise ClipError(RejectKind.NOT_MEDIA, "read", f"{path}: is a git-lfs pointer; run `git lfs pull`")


def source_sha256(uris: Sequence[str]) -> str:
    """SHA-256 of a source: of the file, or of the names and digests of its frame files in order.

    Raises:
        ClipError: missing, unreadable.
    """
    digests = []
    for uri in uris:
        try:
            with Path(uri).open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except FileNotFoundError:
            raise ClipError(RejectKind.MISSING, "read", f"{uri}: does not exist") from None
        except OSError as error:
            raise ClipError(RejectKind.UNREADABLE, "read", f"{uri}: {error.strerror}") from None
    if len(uris) == 1:
        return digests[0]
    lines = (f"{digest}  {Path(uri).name}\n" for digest, uri in zip(digests, uris, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _read_image(path: str, settings: DecodeSettings) -> Frames:
    check_file(path)
    image, codec = read_picture(path, settings.max_megapixels)
    return _still_frames({0: image}, [0], [0.0], 1, codec)


def _read_folder(uris: Sequence[str], frames: int, settings: DecodeSettings) -> Frames:
    """Sample on the frame numbers: gaps are frames that the data set's authors removed, so they are time too."""
    if len(uris) == 1 and Path(uris[0]).is_dir():
        raise ClipError(RejectKind.EMPTY, "read", f"{uris[0]}: the frame folder holds no picture")
    clock = _frame_clock(uris)
    usable = list(range(len(uris)))
    images: dict[int, np.ndarray] = {}
    codec = ""
    while True:
        chosen = [usable[i] for i in choose([clock[i] for i in usable], frames)]
        try:
            for at in chosen:
                if at not in images:
                    check_file(uris[at])
                    images[at], codec = read_picture(uris[at], settings.max_megapixels)
            break
        except ClipError:
            usable.remove(at)
            if not settings.salvage or not usable:
                raise
    salvaged = len(usable) < len(uris)
    return _still_frames(images, chosen, [math.nan] * len(chosen), len(usable), codec, salvaged)


def _frame_clock(uris: Sequence[str]) -> Sequence[int]:
    numbers = [frame_number(Path(uri).name) for uri in uris]
    if None not in numbers and all(a < b for a, b in itertools.pairwise(numbers)):
        return numbers
    return range(len(uris))


def _still_frames(
    images: dict[int, np.ndarray],
    index: list[int],
    timestamp_ms: list[float],
    frame_count: int,
    codec: str,
    salvaged: bool = False,
) -> Frames:
    height, width = images[index[0]].shape[:2]
    return Frames(
        images=[images[i] for i in index],
        index=index,
        timestamp_ms=timestamp_ms,
        width=width,
        height=height,
        fps=None,
        frame_count=frame_count,
        codec=codec,
        decoder=DECODER,
        decoder_version=DECODER_VERSION,
        salvaged=salvaged,
    )
