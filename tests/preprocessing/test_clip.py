"""One sample becomes a clip row or a reject row, through the real decoder, detector and warp."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from face_media import face_image, face_video

from preprocessing.clip import ClipProcessor, choose_faces
from preprocessing.config import FaceSettings, PreprocessSettings, validate
from preprocessing.errors import ClipError, RejectKind
from preprocessing.faces.align import TEMPLATES
from preprocessing.faces.centerface import CenterFace
from preprocessing.faces.detection import Detection
from preprocessing.manifest import SAMPLE_SCHEMA
from preprocessing.shards import CLIP_SCHEMA, REJECT_SCHEMA

FRAMES, CROP_PX = 6, 112


def settings(**faces: object) -> PreprocessSettings:
    tree = {"crop_px": CROP_PX, "detect_px": 160, **faces}
    return validate(PreprocessSettings, {"dataset": {"root": "/none"}, "sampling": {"frames": FRAMES}, "faces": tree})


@pytest.fixture(scope="module")
def processor() -> Iterator[ClipProcessor]:
    clips = ClipProcessor(settings(), "f00d")
    yield clips
    clips.close()


def sample(*paths: Path, media: str = "video", **more: object) -> dict:
    row = dict.fromkeys(SAMPLE_SCHEMA.names) | {"sample_id": "set/1", "dataset": "set", "media": media}
    row |= {"uris": [str(path) for path in paths], "label": "happy", "dataset_label": "1", "splits": ["all/train"]}
    return row | more


def crops(row: dict) -> list[np.ndarray]:
    return [cv2.cvtColor(cv2.imdecode(np.frombuffer(f, np.uint8), 1), cv2.COLOR_BGR2RGB) for f in row["frames"]]


def test_a_clip_row_holds_aligned_crops_and_where_they_come_from(processor: ClipProcessor, tmp_path: Path) -> None:
    path = face_video(tmp_path / "1.mp4", FRAMES)
    row = processor.process(sample(path, subject="s1"))
    assert row["face_found"] == [True] * FRAMES
    assert row["frame_index"] == list(range(FRAMES))
    np.testing.assert_allclose(row["timestamp_ms"], 100 * np.arange(FRAMES), atol=0.1)
    assert (row["source_width"], row["source_frames"], row["source_codec"]) == (160, FRAMES, "h264")
    assert (row["aligner"], row["fingerprint"], row["subject"], row["label"]) == ("centerface", "f00d", "s1", "happy")
    assert len(row["source_sha256"]) == 64
    for crop, box in zip(crops(row), row["box"], strict=True):
        assert crop.shape == (CROP_PX, CROP_PX, 3)
        assert 20 < box[2] - box[0] < 120


def test_the_face_lands_on_the_template(processor: ClipProcessor, tmp_path: Path) -> None:
    """Detected again in the crops, the landmarks are where the template puts them."""
    row = processor.process(sample(face_video(tmp_path / "1.mp4", FRAMES)))
    target = TEMPLATES["loose"] * CROP_PX
    for [face] in CenterFace(detect_px=192).detect(crops(row)):
        assert np.abs(face.landmarks - target).max() < 0.07 * CROP_PX


def test_schema_and_row_have_the_same_columns(processor: ClipProcessor, tmp_path: Path) -> None:
    clip = processor.process(sample(face_video(tmp_path / "1.mp4")))
    reject = processor.process(sample(tmp_path / "absent.mp4"))
    assert set(clip) == set(CLIP_SCHEMA.names)
    assert set(reject) == set(REJECT_SCHEMA.names)
    for row, schema in ((clip, CLIP_SCHEMA), (reject, REJECT_SCHEMA)):
        pa.Table.from_pylist([row], schema=schema).validate(full=True)


def test_an_image_and_a_frame_folder_are_clips_too(processor: ClipProcessor, tmp_path: Path) -> None:
    image = processor.process(sample(face_image(tmp_path / "a.jpg"), media="image"))
    assert len(image["frames"]) == 1 and image["face_found"] == [True]
    files = [face_image(tmp_path / "clip" / f"{i}.jpg", seed=i) for i in range(3)]
    folder = processor.process(sample(*files, media="frames"))
    assert folder["face_found"] == [True] * 3
    assert np.isnan(folder["timestamp_ms"]).all()


def test_an_unlabelled_sample_takes_the_same_path(processor: ClipProcessor, tmp_path: Path) -> None:
    path = face_video(tmp_path / "1.mp4")
    labelled, unlabelled = processor.process(sample(path)), processor.process(sample(path, label="", splits=[]))
    assert unlabelled["frames"] == labelled["frames"]
    assert (unlabelled["label"], unlabelled["splits"]) == ("", [])


def test_a_short_gap_is_bridged_and_flagged(processor: ClipProcessor, tmp_path: Path) -> None:
    row = processor.process(sample(face_video(tmp_path / "1.mp4", FRAMES, absent={2, 3})))
    assert row["face_found"] == [True, True, False, False, True, True]
    assert np.isnan(row["box"][2]).all() and row["score"][2] == 0
    points = np.array(row["landmarks"])
    np.testing.assert_allclose(points[2], points[1] + (points[4] - points[1]) / 3, atol=0.05)


@pytest.mark.parametrize(
    "absent, kind, message",
    [
        (range(FRAMES), "no_face", "no face in any of 6 frames"),
        (range(1, FRAMES), "face_share", "a face in 1 of 6 frames, faces.min_found_share is 0.25"),
    ],
)
def test_too_few_faces_are_a_reject(processor, tmp_path: Path, absent, kind: str, message: str) -> None:
    row = processor.process(sample(face_video(tmp_path / "1.mp4", FRAMES, absent=set(absent))))
    assert (row["kind"], row["stage"]) == (kind, "face")
    assert message in row["message"]


def test_bad_media_are_rejects_that_say_why(processor: ClipProcessor, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no video\n" * 50)
    found = {name: processor.process(sample(tmp_path / f"{name}.mp4")) for name in ("absent", "empty", "text")}
    assert {name: row["kind"] for name, row in found.items()} == {
        "absent": "missing",
        "empty": "empty",
        "text": "not_media",
    }
    assert found["absent"]["uri"] == str(tmp_path / "absent.mp4")
    assert found["absent"]["splits"] == ["all/train"]


def test_a_fault_of_ours_is_a_reject_of_its_own_kind(processor: ClipProcessor, tmp_path: Path) -> None:
    broken = sample(face_video(tmp_path / "1.mp4"), media="hologram")
    row = processor.process(broken)
    assert row["kind"] == "internal"
    assert "hologram" in row["message"]
    assert processor.process(sample(face_video(tmp_path / "2.mp4")))["face_found"]


def test_aligner_none_takes_the_middle_of_the_picture(tmp_path: Path) -> None:
    path = face_video(tmp_path / "1.mp4", absent=range(6))
    clips = ClipProcessor(settings(aligner="none"))
    row = clips.process(sample(path))
    clips.close()
    assert row["aligner"] == "none" and row["face_found"] == [False] * 6
    assert np.isnan(row["landmarks"]).all()
    assert all(abs(int(crop.mean()) - 120) <= 2 for crop in crops(row))


def detections(*found: bool) -> list[list[Detection]]:
    points = TEMPLATES["arcface"] * 50 + 100
    face = Detection(np.array([100.0, 100, 150, 160]), 0.9, points)
    return [[face] if there else [] for there in found]


POLICIES = {"nearest": [True] * 7, "center_crop": [True, True, True, True, False, False, False]}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_policy_decides_about_frames_that_no_bridge_reaches(policy: str) -> None:
    found = (True, False, False, True, False, False, False)
    faces = choose_faces(detections(*found), [float(i) for i in range(7)], 300, 300, FaceSettings(missing=policy))
    assert [face.landmarks is not None for face in faces] == POLICIES[policy]
    assert [face.found is not None for face in faces] == list(found)


def test_policy_reject_allows_bridges_only() -> None:
    strict = FaceSettings(missing="reject")
    times = [0.0, 1.0, 2.0]
    assert all(f.landmarks is not None for f in choose_faces(detections(True, False, True), times, 300, 300, strict))
    with pytest.raises(ClipError, match="no face in 1 of 3 frames") as caught:
        choose_faces(detections(True, True, False), times, 300, 300, strict)
    assert caught.value.kind is RejectKind.FACE_SHARE


@pytest.mark.real
def test_real_clip_with_a_long_gap(real_data: Path) -> None:
    clips = ClipProcessor(settings(detect_px=320))
    row = clips.process(sample(real_data / "videos" / "gaps" / "face_noface.mov"))
    clips.close()
    assert 0.25 <= np.mean(row["face_found"]) < 1
    with_face = [crop for crop, found in zip(crops(row), row["face_found"], strict=True) if found]
    target = TEMPLATES["loose"] * CROP_PX
    for [face] in CenterFace(detect_px=192).detect(with_face):
        assert np.abs(face.landmarks - target).max() < 0.1 * CROP_PX
