"""The reader of labelled trees, and the listing of unlabelled media."""

from pathlib import Path

import pytest

from preprocessing.config import DatasetSettings
from preprocessing.datasets import read
from preprocessing.datasets.folder import list_media
from preprocessing.manifest import Manifest, ManifestError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def read_folder(root: Path, **settings: object) -> Manifest:
    return read(DatasetSettings(reader="folder", root=str(root), **settings))


def faults_of(root: Path) -> list[str]:
    with pytest.raises(ManifestError) as error:
        read_folder(root)
    return error.value.faults


def columns(manifest: Manifest, *names: str) -> list[tuple[object, ...]]:
    return [tuple(row[name] for name in names) for row in manifest.table.to_pylist()]


def test_label_folders(tmp_path: Path) -> None:
    touch(tmp_path, "Happiness/b.MP4", "Happiness/a.jpg", "sad/sub ject/c.webm", "fear/d.PnG", "fear/.DS_Store")
    touch(tmp_path, "README.txt", "sad/notes.txt")
    manifest = read_folder(tmp_path, name="mine")
    assert columns(manifest, "sample_id", "media", "label", "dataset_label", "splits") == [
        ("mine/Happiness/a.jpg", "image", "happy", "Happiness", ["all/train"]),
        ("mine/Happiness/b.MP4", "video", "happy", "Happiness", ["all/train"]),
        ("mine/fear/d.PnG", "image", "fear", "fear", ["all/train"]),
        ("mine/sad/sub ject/c.webm", "video", "sad", "sad", ["all/train"]),
    ]
    assert manifest.table["uris"][0].as_py() == [str(tmp_path / "Happiness" / "a.jpg")]
    assert manifest.warnings == [f"2 files are neither video nor picture (first: {tmp_path / 'README.txt'})"]


def test_split_folders(tmp_path: Path) -> None:
    touch(tmp_path, "Train/happy/1.mp4", "valid/sad/1.mp4", "test/Angry/1.mp4", "LICENSE")
    assert columns(read_folder(tmp_path), "sample_id", "label", "splits") == [
        ("folder/Train/happy/1.mp4", "happy", ["all/train"]),
        ("folder/test/Angry/1.mp4", "angry", ["all/test"]),
        ("folder/valid/sad/1.mp4", "sad", ["all/val"]),
    ]
    touch(tmp_path, "happy/2.mp4")
    assert "holds media but is no split folder" in faults_of(tmp_path)[0]


def test_files_named_after_an_emotion(tmp_path: Path) -> None:
    touch(tmp_path, "happy.mp4", "Sadness.MOV", "angry/1.mp4")
    assert columns(read_folder(tmp_path), "sample_id", "label") == [
        ("folder/Sadness.MOV", "sad"),
        ("folder/angry/1.mp4", "angry"),
        ("folder/happy.mp4", "happy"),
    ]


def test_a_folder_of_pictures_below_a_label_is_one_clip(tmp_path: Path) -> None:
    touch(tmp_path, *(f"happy/clip1/{n}.jpg" for n in range(1, 12)), "happy/mixed/1.jpg", "happy/mixed/2.mp4")
    (tmp_path / "happy" / "empty").mkdir()
    manifest = read_folder(tmp_path)
    assert columns(manifest, "sample_id", "media") == [
        ("folder/happy/clip1", "frames"),
        ("folder/happy/empty", "frames"),
        ("folder/happy/mixed/1.jpg", "image"),
        ("folder/happy/mixed/2.mp4", "video"),
    ]
    uris = manifest.table["uris"].to_pylist()
    assert [Path(uri).stem for uri in uris[0]] == [str(n) for n in range(1, 12)]
    assert uris[1] == [str(tmp_path / "happy" / "empty")]


def test_wrapping_folders_are_stepped_into(tmp_path: Path) -> None:
    touch(tmp_path, "set (1)/set/happy/1.mp4", "set (1)/set/sad/1.mp4", "set (1)/readme.md")
    assert columns(read_folder(tmp_path), "sample_id") == [
        ("folder/set (1)/set/happy/1.mp4",),
        ("folder/set (1)/set/sad/1.mp4",),
    ]


def test_unknown_labels_are_faults_all_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "happy/1.mp4", "hapy/1.mp4", "7/1.mp4", "clip.mp4", "docs/readme.md")
    faults = faults_of(tmp_path)
    assert len(faults) == 3
    assert f"{tmp_path / 'hapy'}: unknown emotion 'hapy'; did you mean 'happy'?" in faults
    assert any(fault.startswith(f"{tmp_path / 'clip.mp4'}: unknown emotion 'clip'") for fault in faults)


def test_links_stay_inside_the_root(tmp_path: Path) -> None:
    root = tmp_path / "data"
    touch(tmp_path, "data/happy/1.mp4", "secret/2.mp4")
    (root / "sad").symlink_to(tmp_path / "secret")
    (root / "happy" / "2.mp4").symlink_to(root / "gone.mp4")
    assert len(faults_of(root)) == 1
    (root / "sad").unlink()
    manifest = read_folder(root)
    assert manifest.table.num_rows == 2
    assert "1 of 2 samples have no media file (first: folder/happy/2.mp4)" in manifest.warnings[0]


def test_nothing_to_read(tmp_path: Path) -> None:
    assert "no sample was found" in faults_of(tmp_path)[0]
    assert "does not exist" in faults_of(tmp_path / "nowhere")[0]


def test_list_media_of_a_folder_and_of_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "b/deep/1.mp4", "a.jpg", "c.txt", "noending")
    rows = list_media(str(tmp_path))
    assert [(r["sample_id"], r["media"], r["label"], r["splits"]) for r in rows] == [
        ("input/a.jpg", "image", "", []),
        ("input/b/deep/1.mp4", "video", "", []),
    ]
    for name in ("noending", "c.txt"):
        (row,) = list_media(str(tmp_path / name))
        assert (row["sample_id"], row["media"], row["uris"]) == (f"input/{name}", "video", [str(tmp_path / name)])
    for name in ("nowhere", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ManifestError):
            list_media(str(tmp_path / name))


@pytest.mark.real
def test_real_labelled_videos(real_data: Path) -> None:
    table = read_folder(real_data / "videos" / "labelled7").table
    assert sorted(table["label"].to_pylist()) == ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
