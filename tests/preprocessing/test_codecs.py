"""One clip in 49 files: every codec, container and kind of damage gives its pictures, or is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocessing.config import DecodeSettings
from preprocessing.decode import decode
from preprocessing.errors import ClipError, RejectKind

pytestmark = pytest.mark.real

# fmt: off
BY_DECORD = (
    "even_478x362.mp4", "faststart.mp4", "fps5.mp4", "fps60.mp4", "h264_10bit.mp4", "h264_444.mp4", "h264_baseline.mp4",
    "h264_fragmented.mp4", "h264_interlaced.mp4", "h264_longgop_b8.mkv", "hevc.mp4", "hevc_hvc1.mov",
    "odd_479x361_444.mp4", "one_frame.mp4", "ref_h264_b3.mp4", "rot180.mp4", "rot270.mp4", "rot90.mp4",
    "start_pts_5s.mkv", "three_frames.mp4", "vfr_h264.mp4", "vp8.webm", "vp9.webm", "with_audio.mp4",
)
BY_PYAV = (
    "anim.gif", "av1.mkv", "av1.mp4", "cut_copy_editlist.mp4", "ffv1.mkv", "flv1.flv", "h264_interlaced.ts",
    "h264_progressive.ts", "mjpeg.avi", "mpeg2.mpg", "mpeg4_b2.avi", "tiny_16.mp4", "wmv2.wmv", "xvid.avi",
)
SALVAGED = ("trunc60_faststart.mp4", "trunc95_faststart.mp4", "trunc_mid.mpg", "zeroed20k_middle.mp4")
# fmt: on
REFUSED = {
    "audio_only.mp4": RejectKind.NO_VIDEO,
    "bitflips300_faststart.mp4": RejectKind.UNREADABLE,  # the first picture is damaged already
    "garbage.mp4": RejectKind.NOT_MEDIA,
    "header_only.mp4": RejectKind.TRUNCATED,
    "text.mp4": RejectKind.NOT_MEDIA,
    "trunc60_moov_at_end.mp4": RejectKind.TRUNCATED,
    "zero_bytes.mp4": RejectKind.EMPTY,
}
TURNED = {"rot90.mp4": 1, "rot180.mp4": 2, "rot270.mp4": 3}  # only the tag was changed
FIRST_FRAME = {"cut_copy_editlist.mp4": 6}  # a cut out of the clip
WORST_DB = {
    "anim.gif": 20.0,  # 256 colours
    "fps5.mp4": 27.0,  # the filter that made it took pictures from up to 4 frames beside
}
REFERENCE_FPS = 30
NEAR_LOSSLESS_DB = 28.0


@pytest.fixture(scope="module")
def reference(real_data: Path) -> list[np.ndarray]:
    path = real_data / "videos" / "codecs" / "ref_h264_b3.mp4"
    return decode("video", [str(path)], 512, DecodeSettings()).images


def psnr_db(image: np.ndarray, expected: np.ndarray) -> float:
    if expected.shape != image.shape:
        expected = np.asarray(Image.fromarray(expected).resize(image.shape[1::-1], Image.Resampling.BOX))
    return float(10 * np.log10(255**2 / max(np.mean((image.astype(float) - expected) ** 2), 1e-5)))


@pytest.mark.parametrize(
    ("name", "decoder"),
    [*((name, "auto") for name in BY_DECORD + BY_PYAV + SALVAGED), *((name, "pyav") for name in BY_DECORD)],
)
def test_pictures_are_those_of_the_reference(
    real_data: Path, reference: list[np.ndarray], name: str, decoder: str
) -> None:
    path = real_data / "videos" / "codecs" / name
    frames = decode("video", [str(path)], 16, DecodeSettings(decoder=decoder))
    assert frames.decoder == ("decord" if decoder == "auto" and name in BY_DECORD else "pyav")
    assert frames.salvaged == (name in SALVAGED)
    worst = 99.0
    for image, time_ms in zip(frames.images, frames.timestamp_ms, strict=True):
        at = FIRST_FRAME.get(name, 0) + round(time_ms * REFERENCE_FPS / 1000)
        expected = reference[min(at, len(reference) - 1)]
        worst = min(worst, psnr_db(image, np.rot90(expected, TURNED.get(name, 0))))
    print(f"{name}: {frames.codec} by {frames.decoder}, {frames.frame_count} frames, worst {worst:.1f} dB")
    assert worst >= WORST_DB.get(name, NEAR_LOSSLESS_DB)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(real_data: Path, name: str) -> None:
    with pytest.raises(ClipError) as error:
        decode("video", [str(real_data / "videos" / "codecs" / name)], 16, DecodeSettings())
    assert error.value.kind == REFUSED[name]


def test_no_file_is_left_out(real_data: Path) -> None:
    files = {path.name for path in (real_data / "videos" / "codecs").iterdir()}
    assert files == {*BY_DECORD, *BY_PYAV, *SALVAGED, *REFUSED}
