"""Decoding gives the right frames at the right times, or says why it cannot."""

import hashlib
import math
import os
from pathlib import Path

import numpy as np
import pytest
from make_media import cut, number_of, numbered, write_audio, write_frames, write_video
from PIL import Image

from preprocessing.config import DecodeSettings
from preprocessing.decode import Frames, decode, source_sha256
from preprocessing.errors import ClipError, RejectKind

AUTO = DecodeSettings()
EVEN_6_OF_30 = [2, 7, 12, 17, 22, 27]


def video(path: Path, frames: int = 6, **settings: object) -> Frames:
    return decode("video", [str(path)], frames, DecodeSettings(**settings))


def numbers(frames: Frames) -> list[int]:
    return [number_of(image) for image in frames.images]


def refusal(media: str, path: Path, **settings: object) -> ClipError:
    with pytest.raises(ClipError) as error:
        decode(media, [str(path)], 4, DecodeSettings(**settings))
    assert str(path) in error.value.message
    return error.value


@pytest.mark.parametrize(
    ("name", "encoder", "codec", "decoder"),
    [
        ("a.mp4", "libx264", "h264", "decord"),
        ("a.mkv", "libx264", "h264", "decord"),
        ("a.mp4", "libx265", "hevc", "decord"),
        ("a.webm", "libvpx", "vp8", "decord"),
        ("a.webm", "libvpx-vp9", "vp9", "decord"),
        ("a.mkv", "mjpeg", "mjpeg", "decord"),
        ("a.avi", "mpeg4", "mpeg4", "pyav"),
        ("a.ts", "libx264", "h264", "pyav"),
        ("a.mpg", "mpeg2video", "mpeg2video", "pyav"),
    ],
)
def test_containers_and_codecs(tmp_path: Path, name: str, encoder: str, codec: str, decoder: str) -> None:
    path = write_video(tmp_path / name, codec=encoder)
    frames = video(path)
    assert numbers(frames) == frames.index == EVEN_6_OF_30
    assert frames.timestamp_ms == pytest.approx([i * 40 for i in EVEN_6_OF_30], abs=1)
    assert (frames.codec, frames.decoder, frames.salvaged) == (codec, decoder, False)
    assert (frames.width, frames.height, frames.frame_count, frames.fps) == (128, 96, 30, 25.0)
    assert all(image.dtype == np.uint8 and image.shape == (96, 128, 3) for image in frames.images)
    assert numbers(video(path, decoder="pyav")) == EVEN_6_OF_30


def test_variable_frame_rate_is_sampled_in_time(tmp_path: Path) -> None:
    times = [*range(0, 300, 10), *range(300, 3000, 100)]
    frames = video(write_video(tmp_path / "vfr.mp4", len(times), times_ms=times))
    assert numbers(frames) == frames.index
    assert frames.timestamp_ms == pytest.approx([250, 700, 1200, 1700, 2200, 2700], abs=100)
    assert frames.timestamp_ms == pytest.approx([times[i] for i in frames.index])


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied(tmp_path: Path, rotation: int, decoder: str) -> None:
    frames = video(write_video(tmp_path / "rotated.mp4", rotation=rotation), decoder=decoder)
    assert numbers(frames) == EVEN_6_OF_30
    assert (frames.width, frames.height, frames.decoder) == (128, 96, decoder)


def test_decoders_agree_on_colour(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 4)
    first, second = (video(path, decoder=name).images[0] for name in ("decord", "pyav"))
    assert np.array_equal(first, second)
    red = np.full((96, 128, 3), (200, 40, 30), dtype=np.uint8)
    image = video(write_video(tmp_path / "red.mp4", pictures=[red] * 3)).images[0]
    assert np.abs(image.astype(int) - red).max() <= 6


@pytest.mark.parametrize("count", [1, 3, 6])
def test_short_clips_keep_every_frame_once(tmp_path: Path, count: int) -> None:
    assert numbers(video(write_video(tmp_path / "short.mp4", count))) == list(range(count))


def test_an_edit_list_hides_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "edited.mp4", 40, hidden=10)
    frames = video(path)
    assert numbers(frames) == [i + 10 for i in EVEN_6_OF_30]
    assert (frames.decoder, frames.frame_count, frames.index) == ("pyav", 30, EVEN_6_OF_30)
    error = refusal("video", path, decoder="decord")
    assert error.kind == RejectKind.UNREADABLE
    assert "decord counts 40 frames, the container shows 30" in error.message


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_a_cut_file_gives_its_good_prefix(tmp_path: Path, name: str, share: float) -> None:
    whole = write_video(tmp_path / name, 60, options={"g": "12", "bf": "2"})
    path = cut(whole, share, tmp_path / f"cut_{name}")
    frames = video(path, 100)
    assert frames.salvaged
    assert frames.decoder == "pyav"
    assert numbers(frames) == pytest.approx([t / 40 for t in frames.timestamp_ms], abs=0.1)
    assert len(frames.images) == frames.frame_count < 60
    assert refusal("video", path, salvage=False).kind == RejectKind.TRUNCATED
    assert refusal("video", path, decoder="decord").kind == RejectKind.UNREADABLE


@pytest.mark.parametrize("at", [0.4, 0.5, 0.6, 0.8])
def test_a_hole_in_the_stream_is_never_silently_wrong(tmp_path: Path, at: float) -> None:
    path = write_video(tmp_path / "hole.mp4", 60, options={"g": "12", "bf": "2"})
    data = bytearray(path.read_bytes())
    start = int(len(data) * at)
    data[start : start + 6000] = bytes(6000)  # more than one picture: a hole inside one leaves no trace in H.264
    path.write_bytes(data)
    frames = video(path, 100)
    assert frames.salvaged
    assert numbers(frames) == pytest.approx([t / 40 for t in frames.timestamp_ms], abs=0.1)


def test_a_lost_index_is_truncation(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    assert refusal("video", cut(path, 0.01, tmp_path / "head.mp4")).kind == RejectKind.TRUNCATED


@pytest.mark.parametrize("media", ["video", "image"])
@pytest.mark.parametrize(
    ("content", "kind", "stage"),
    [
        (b"", "empty", "read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "not_media", "read"),
        (b"What a fine day.\n" * 40, "not_media", "decode"),
        (bytes(range(256)) * 20, "not_media", "decode"),
        (
            b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
            "not_media",
            "decode",
        ),
        (b"ffconcat version 1.0\nfile 'good.mp4'\n", "not_media", "decode"),
    ],
)
def test_what_is_no_media(tmp_path: Path, media: str, content: bytes, kind: str, stage: str) -> None:
    write_video(tmp_path / "good.mp4", 3)
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    error = refusal(media, path)
    assert (error.kind, error.stage) == (kind, stage)


def test_missing_folders_and_audio(tmp_path: Path) -> None:
    assert refusal("video", tmp_path / "nowhere.mp4").kind == RejectKind.MISSING
    assert refusal("image", tmp_path).kind == RejectKind.UNREADABLE
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for ever
    assert refusal("video", tmp_path / "pipe.mp4").kind == RejectKind.UNREADABLE
    error = refusal("video", write_audio(tmp_path / "tone.mp4"))
    assert error.kind == RejectKind.NO_VIDEO
    assert "has: audio" in error.message
    error = refusal("video", write_audio(tmp_path / "song.mp4", cover=numbered(1)))
    assert "has: audio, cover picture" in error.message


def test_metadata_may_be_anything(tmp_path: Path) -> None:
    path = write_video(tmp_path / "titled.mkv", 3, title="ABCDEFGH")
    path.write_bytes(path.read_bytes().replace(b"ABCDEFGH", b"AB\xff\xfeEFGH"))
    assert numbers(video(path)) == [0, 1, 2]


def test_size_limit_is_checked_in_the_header(tmp_path: Path) -> None:
    error = refusal("video", write_video(tmp_path / "a.mp4", 2), max_megapixels=0.01)
    assert error.kind == RejectKind.TOO_LARGE
    assert "128x96 is more than decode.max_megapixels = 0.01" in error.message
    (path,) = write_frames(tmp_path, [1])
    assert refusal("image", path, max_megapixels=0.01).kind == RejectKind.TOO_LARGE


def picture(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)
    return decode("image", [str(path)], 16, AUTO).images[0]


def test_pictures_of_every_mode_become_rgb(tmp_path: Path) -> None:
    source = Image.fromarray(numbered(77))
    for mode, name in [("RGB", "a.png"), ("L", "a.bmp"), ("RGBA", "b.png"), ("CMYK", "a.jpg"), ("P", "c.png")]:
        image = picture(tmp_path / name, source.convert(mode))
        assert image.shape == (96, 128, 3)
        assert number_of(image) == 77
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    grey = picture(tmp_path / "deep.png", Image.fromarray(ramp))
    assert np.array_equal(grey[..., 0].ravel(), np.arange(256))
    assert picture(tmp_path / "png.jpg", source, format="PNG").shape == (96, 128, 3)


def test_picture_orientation_and_facts(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 degrees clockwise to display"
    path = tmp_path / "turned.jpg"
    Image.fromarray(np.ascontiguousarray(np.rot90(numbered(9)))).save(path, exif=exif)
    frames = decode("image", [str(path)], 16, AUTO)
    assert numbers(frames) == [9]
    assert (frames.index, frames.timestamp_ms, frames.frame_count, frames.fps) == ([0], [0.0], 1, None)
    assert (frames.width, frames.height, frames.codec, frames.decoder) == (128, 96, "jpeg", "pillow")


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_cut_picture_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    assert refusal("image", cut(path, 0.6, tmp_path / f"cut.{ending}")).kind == RejectKind.TRUNCATED


def test_frame_folders_are_sampled_on_their_numbers(tmp_path: Path) -> None:
    kept = [1, 2, 3, 4, *range(41, 101)]  # the authors removed 36 frames without a face
    uris = [str(path) for path in write_frames(tmp_path / "00001", kept, "00001_{:05d}.jpg")]
    frames = decode("frames", uris, 4, AUTO)
    assert numbers(frames) == [3, 4, 63, 89]
    assert frames.index == [kept.index(n) for n in numbers(frames)]
    assert all(math.isnan(time) for time in frames.timestamp_ms)
    assert (frames.frame_count, frames.fps, frames.codec) == (64, None, "jpeg")
    sixteen = [str(path) for path in write_frames(tmp_path / "16f", range(1, 17))]
    assert numbers(decode("frames", sixteen, 16, AUTO)) == list(range(1, 17))


def test_broken_frames_of_a_folder_are_passed_over(tmp_path: Path) -> None:
    paths = write_frames(tmp_path, range(1, 9))
    paths[2].write_bytes(b"")
    paths[5].unlink()
    uris = [str(path) for path in paths]
    frames = decode("frames", uris, 16, AUTO)
    assert numbers(frames) == [1, 2, 4, 5, 7, 8]
    assert frames.salvaged
    assert frames.frame_count == 6
    with pytest.raises(ClipError, match="zero bytes"):
        decode("frames", uris, 16, DecodeSettings(salvage=False))
    for path in paths:
        path.write_bytes(b"no picture")
    with pytest.raises(ClipError) as error:
        decode("frames", uris, 16, AUTO)
    assert error.value.kind == RejectKind.NOT_MEDIA


def test_empty_and_missing_frame_folders(tmp_path: Path) -> None:
    assert refusal("frames", tmp_path).kind == RejectKind.EMPTY
    assert refusal("frames", tmp_path / "00007").kind == RejectKind.MISSING


def test_unknown_media_is_a_programming_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="media = 'movie'"):
        decode("movie", [str(tmp_path)], 4, AUTO)


def test_source_hash(tmp_path: Path) -> None:
    first, second = write_frames(tmp_path, [1, 2])
    assert source_sha256([str(first)]) == hashlib.sha256(first.read_bytes()).hexdigest()
    both = source_sha256([str(first), str(second)])
    assert both == source_sha256([str(first), str(second)])
    assert both != source_sha256([str(second), str(first)])
    second.unlink()
    with pytest.raises(ClipError) as error:
        source_sha256([str(first), str(second)])
    assert error.value.kind == RejectKind.MISSING
