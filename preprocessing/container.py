"""Facts of a video file, read from its container without decoding a frame."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from preprocessing.errors import ClipError, RejectKind

DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,gif,mxf,dv,h264,hevc,ivf,m4v"
"""Containers that may be opened. Playlists (hls, concat, dash) are not: they can name other files and hosts."""

_SIGNATURES = ((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (0, b"RIFF"), (0, b"FLV"), (0, b"OggS"), (0, b"\x00\x00\x01\xba"))
_EBML_SEGMENT = b"\x18\x53\x80\x67"


@dataclass(frozen=True)
class Facts:
    """What a container says about its video; times are in units of `time_base`."""

    path: str
    format: str
    codec: str
    width: int
    """Of the coded picture, before rotation."""
    height: int
    fps: float | None
    time_base: Fraction
    video_streams: int
    order: dict[int, int]
    """Presentation time -> decoding order, of every frame that is meant to be shown."""
    end: int | None
    """When the last frame leaves the screen."""
    hidden: int
    """Packets that the container marks as not shown (edit lists)."""
    clocked: bool
    """Every packet has its own presentation time."""
    declared_frames: int
    """Frame count in the header; 0 when the container has none."""
    damage: str | None
    """Why the file cannot be whole, as far as the container shows it."""

    @property
    def times(self) -> list[int]:
        """Presentation times of the frames shown, ascending."""
        return sorted(self.order)


def probe(path: str, max_megapixels: float) -> Facts:
    """Read the facts of a video file: one pass over its packets.

    Raises:
        ClipError: not_media, truncated (no index), no_video, too_large.
    """
    with open_video(path) as container:
        stream = video_stream(container, path)
        check_size(path, stream.codec_context.width, stream.codec_context.height, max_megapixels)
        return _facts(path, container, stream)


def open_video(path: str) -> InputContainer:
    """Open a local media file with the allowed demuxers.

    Raises:
        ClipError: not_media; truncated when a known container has lost its index.
    """
    try:
        limits = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
        return av.open(path, options=limits, metadata_errors="replace")
    except av.error.FFmpegError as error:
        head = read_head(path)
        if any(head[at:].startswith(magic) for at, magic in _SIGNATURES):
            raise ClipError(
                RejectKind.TRUNCATED, "decode", f"{path}: the container has no usable index ({_reason(error)})"
            ) from None
        raise ClipError(RejectKind.NOT_MEDIA, "decode", f"{path}: no known video format") from None


def video_stream(container: InputContainer, path: str) -> VideoStream:
    """The stream to decode; cover art is not video.

    Raises:
        ClipError: no_video; truncated when no stream of any kind is left.
    """
    if not container.streams:
        raise ClipError(RejectKind.TRUNCATED, "decode", f"{path}: the container has lost its index: no stream is left")
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        kinds = sorted({"cover picture" if other is stream else other.type for other in container.streams})
        raise ClipError(RejectKind.NO_VIDEO, "decode", f"{path}: no video stream (has: {', '.join(kinds)})")
    if stream.codec_context is None:
        raise ClipError(RejectKind.UNREADABLE, "decode", f"{path}: no decoder for its video codec")
    return stream


def check_size(path: str, width: int, height: int, max_megapixels: float) -> None:
    """Refuse frames that are larger than the settings allow.

    Raises:
        ClipError: too_large; unreadable when the header gives no size.
    """
    if width <= 0 or height <= 0:
        raise ClipError(RejectKind.UNREADABLE, "decode", f"{path}: the header gives no picture size")
    if width * height > max_megapixels * 1e6:
        raise ClipError(
            RejectKind.TOO_LARGE,
            "decode",
            f"{path}: {width}x{height} is more than decode.max_megapixels = {max_megapixels:g}",
        )


def read_head(path: str, size: int = 64) -> bytes:
    """First bytes of a file."""
    with Path(path).open("rb") as file:
        return file.read(size)


def _facts(path: str, container: InputContainer, stream: VideoStream) -> Facts:
    order: dict[int, int] = {}
    count = hidden = 0
    end, damage = None, _cut_short(path, stream)
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            damage = damage or f"unreadable after packet {count} ({_reason(error)})"
            break
        if packet is None:
            break
        if not packet.size:
            continue
        if packet.is_corrupt:
            damage = damage or f"packet {count} is cut or damaged"
        if packet.is_discard:
            hidden += 1
        elif packet.pts is not None:
            order.setdefault(packet.pts, count)
            end = max(end or packet.pts, packet.pts + (packet.duration or 0))
        count += 1
    context = stream.codec_context
    return Facts(
        path=path,
        format=container.format.name,
        codec=context.codec.canonical_name,
        width=context.width,
        height=context.height,
        fps=float(stream.average_rate) if stream.average_rate else None,
        time_base=stream.time_base,
        video_streams=len(container.streams.video),
        order=order,
        end=end,
        hidden=hidden,
        clocked=len(order) + hidden == count,
        declared_frames=stream.frames,
        damage=damage,
    )


def _cut_short(path: str, stream: VideoStream) -> str | None:
    size = Path(path).stat().st_size
    beyond = sum(entry.pos + entry.size > size for entry in stream.index_entries)
    if beyond:
        return f"{beyond} of {len(stream.index_entries)} indexed frames lie beyond the end of the file"
    segment_end = _matroska_end(read_head(path, 4096))
    if segment_end and segment_end > size:
        return f"{segment_end - size} bytes are missing at its end"
    return None


def _matroska_end(head: bytes) -> int | None:
    """Where a Matroska or WebM file must end (RFC 8794: EBML header, then one Segment); null if it is neither."""
    if not head.startswith(_SIGNATURES[1][1]):
        return None
    header, at = _ebml_size(head, 4)
    at += header
    if head[at : at + 4] != _EBML_SEGMENT:
        return None
    size, at = _ebml_size(head, at + 4)
    return at + size if size else None


def _ebml_size(data: bytes, at: int) -> tuple[int, int]:
    """Size field at `at` (0 = unknown, as in a live stream) and the position after it."""
    field = data[at : at + 8]
    if not field or not field[0]:
        return 0, at
    length = 9 - field[0].bit_length()
    mask = (1 << 7 * length) - 1
    size = int.from_bytes(field[:length], "big") & mask
    return (0 if size == mask else size), at + length


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
