"""Why a sample was refused: the closed set of kinds, and the error that carries one."""

from enum import StrEnum
from typing import Literal

Stage = Literal["read", "decode", "face", "align", "encode"]


class RejectKind(StrEnum):
    """Every reason for which a sample becomes a Reject instead of a clip."""

    MISSING = "missing"
    """The media file or folder does not exist."""
    EMPTY = "empty"
    """Zero bytes, or a frame folder without a picture."""
    UNREADABLE = "unreadable"
    """Media of a known kind that cannot be decoded, or may not be read."""
    NOT_MEDIA = "not_media"
    """The content is neither a video nor a picture."""
    NO_VIDEO = "no_video"
    """A container without a video stream."""
    TOO_LARGE = "too_large"
    """More pixels per frame than the settings allow."""
    TRUNCATED = "truncated"
    """Cut short or damaged part of the way through."""
    TIMEOUT = "timeout"
    """Took longer than the settings allow."""
    CRASH = "crash"
    """Native code killed the decoding process."""
    NO_FACE = "no_face"
    """No face in any frame."""
    FACE_SHARE = "face_share"
    """A face in too few of the frames."""
    INTERNAL = "internal"
    """A fault of this program, not of the sample."""


class ClipError(Exception):
    """One sample cannot become a clip; picklable, so it crosses process borders unchanged."""

    def __init__(self, kind: RejectKind | str, stage: Stage, message: str) -> None:
        self.kind = RejectKind(kind)
        self.stage: Stage = stage
        self.message = message
        super().__init__(self.kind, stage, message)

    def __str__(self) -> str:
        return f"{self.stage}: {self.kind}: {self.message}"
