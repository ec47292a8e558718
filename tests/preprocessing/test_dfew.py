"""The DFEW reader on trees as users have them, and on what is wrong with them."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from preprocessing.config import DatasetSettings
from preprocessing.datasets import read
from preprocessing.datasets.dfew import PUBLISHED_FOLDS
from preprocessing.manifest import Manifest, ManifestError

Fold = tuple[Mapping[int, int], Mapping[int, int]]
FOLDS: dict[int, Fold] = {1: ({1: 1, 2: 2, 10: 7}, {3: 3}), 2: ({1: 1, 3: 3}, {2: 2, 10: 7})}


def write_lists(root: Path, folds: Mapping[int, Fold] = FOLDS, names: tuple[str, str] = ("train", "test")) -> None:
    for fold, parts in folds.items():
        for name, labels in zip(names, parts, strict=True):
            (root / name).mkdir(parents=True, exist_ok=True)
            rows = "".join(f"{number},{label}\n" for number, label in labels.items())
            (root / name / f"set_{fold}.csv").write_text("video_name,label\n" + rows)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def read_dfew(root: Path, **settings: object) -> Manifest:
    return read(DatasetSettings(reader="dfew", root=str(root), **settings))


def faults_of(root: Path, **settings: object) -> list[str]:
    with pytest.raises(ManifestError) as error:
        read_dfew(root, **settings)
    return error.value.faults


def test_the_published_tree(tmp_path: Path) -> None:
    write_lists(tmp_path / "EmoLabel_DataSplit", names=("train(single-labeled)", "test(single-labeled)"))
    touch(*(tmp_path / "Clip" / "original" / f"{n}.mp4" for n in (1, 2, 3, 10)))
    manifest = read_dfew(tmp_path)
    rows = manifest.table.to_pylist()
    assert [row["sample_id"] for row in rows] == ["dfew/00001", "dfew/00002", "dfew/00003", "dfew/00010"]
    assert [row["label"] for row in rows] == ["happy", "sad", "neutral", "fear"]
    assert [row["dataset_label"] for row in rows] == ["1", "2", "3", "7"]
    assert [row["splits"] for row in rows] == [
        ["fold1/train", "fold2/train"],
        ["fold1/train", "fold2/test"],
        ["fold1/test", "fold2/train"],
        ["fold1/train", "fold2/test"],
    ]
    assert rows[3]["uris"] == [str(tmp_path / "Clip" / "original" / "10.mp4")]
    assert {row["media"] for row in rows} == {"video"}
    assert manifest.warnings == ["4 labelled clips in 2 folds: a subset, DFEW has 11697 in 5"]


@pytest.mark.parametrize("clip", ["{:d}.mp4", "{:05d}.MP4", "{:05d}.avi"])
@pytest.mark.parametrize("where", ["Clip/Clip/original", "DFEW-part2 (1)/films", "Clip/original/data_part_1-2-3"])
@pytest.mark.parametrize("names", [("train(single_labeled)", "test(single_labeled)"), ("train", "test")])
def test_messy_trees(tmp_path: Path, clip: str, where: str, names: tuple[str, str]) -> None:
    write_lists(tmp_path / "DFEW & labels" / "EmoLabel_DataSplit", names=names)
    touch(*(tmp_path / where / clip.format(n) for n in (1, 2, 3, 10)))
    touch(tmp_path / "__MACOSX" / "1.mp4", tmp_path / where / "._1.mp4", tmp_path / where / ".DS_Store")
    rows = read_dfew(tmp_path, name="films").table.to_pylist()
    assert [Path(row["uris"][0]).name for row in rows] == [clip.format(n) for n in (1, 2, 3, 10)]
    assert rows[0]["sample_id"] == "films/00001"


def test_frame_folders_are_sorted_by_number_with_gaps(tmp_path: Path) -> None:
    write_lists(tmp_path, {1: ({1: 1, 2: 2}, {3: 3, 4: 4})})
    clips = tmp_path / "Clip" / "clip_224x224"
    touch(*(clips / "00001" / f"00001_{n:05d}.jpg" for n in (1, 2, 9, 10, 11)), clips / "00001" / "Thumbs.db")
    touch(clips / "00002" / "00002_00144.JPG")
    (clips / "00003").mkdir()
    manifest = read_dfew(tmp_path)
    uris = manifest.table["uris"].to_pylist()
    assert [Path(uri).stem[-2:] for uri in uris[0]] == ["01", "02", "09", "10", "11"]
    assert uris[1:] == [
        [str(clips / "00002" / "00002_00144.JPG")],
        [str(clips / "00003")],  # empty
        [str(tmp_path / "clip_224x224" / "00004")],  # not there
    ]
    assert manifest.table["media"].to_pylist() == ["frames"] * 4
    assert any("1 of 4 samples have no media file (first: dfew/00004)" in text for text in manifest.warnings)


@pytest.mark.parametrize("folder", ["Clip/Clip/clip_224x224_16f", "clip_224x16f", "DFEW_Frame_Face"])
def test_sixteen_frames_are_not_sorted_as_text(tmp_path: Path, folder: str) -> None:
    write_lists(tmp_path)
    touch(*(tmp_path / folder / f"{clip:05d}" / f"{n}.jpg" for clip in (1, 2, 3, 10) for n in range(1, 17)))
    uris = read_dfew(tmp_path, media="clip_224x224_16f").table["uris"].to_pylist()
    assert [Path(uri).stem for uri in uris[0]] == [str(n) for n in range(1, 17)]


def test_auto_takes_the_first_form_and_a_form_can_be_named(tmp_path: Path) -> None:
    write_lists(tmp_path)
    for n in (1, 2, 3, 10):
        touch(tmp_path / "Clip" / "clip_224x224_16f" / f"{n:05d}" / "1.jpg")
        touch(tmp_path / "Clip" / "clip_224x224_avi" / f"{n:05d}.avi")
    assert set(read_dfew(tmp_path).table["media"].to_pylist()) == {"frames"}
    touch(*(tmp_path / "Clip" / "original" / f"{n}.mp4" for n in (1, 2, 3, 10, 11)))
    manifest = read_dfew(tmp_path)
    assert set(manifest.table["media"].to_pylist()) == {"video"}
    assert any("1 clips on disk are in no set_k.csv" in text for text in manifest.warnings)
    chosen = read_dfew(tmp_path, media="clip_224x224_16f", limit=2).table
    assert chosen["media"].to_pylist() == ["frames"] * 2
    assert "no clips of form clip_224x224 were found (found: " in faults_of(tmp_path, media="clip_224x224")[0]


def test_lists_with_bom_crlf_blanks_padding_and_no_header(tmp_path: Path) -> None:
    touch(*(tmp_path / "original" / f"{n}.mp4" for n in (1, 2, 3)))
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    (tmp_path / "train" / "set_1.csv").write_bytes(b"\xef\xbb\xbfvideo_name , label\r\n 00001 , 1 \r\n\r\n2.mp4,7\r\n")
    (tmp_path / "test" / "set_1.csv").write_bytes(b"3,3")
    table = read_dfew(tmp_path).table
    assert table["label"].to_pylist() == ["happy", "fear", "neutral"]
    assert table["splits"].to_pylist() == [["fold1/train"], ["fold1/train"], ["fold1/test"]]


def test_every_fault_of_the_lists_at_once(tmp_path: Path) -> None:
    touch(*(tmp_path / "original" / f"{n}.mp4" for n in (1, 2, 3)))
    write_lists(tmp_path, {1: ({1: 1}, {3: 3}), 2: ({1: 2}, {2: 2})})
    train, test = tmp_path / "train" / "set_1.csv", tmp_path / "test" / "set_1.csv"
    train.write_text("video_name,label\n1,1\n2,0\n4\nx,1\n5,happy\n1,1\n6,8\n")
    test.write_text("1,1\n3,3\n")
    (tmp_path / "train" / "set_3.csv").write_bytes(b"1,1\n\xff\xfe,2\n")
    faults = faults_of(tmp_path)
    expected = [
        f"{test}:1: clip 1 is in train and test in fold 1",
        f"{train}:3: label 0 is out of range: 1..7",
        f"{train}:4: '4' has 1 fields, needs 2",
        f"{train}:5: x,1 is not `video_name,label`",
        f"{train}:6: 5,happy is not `video_name,label`",
        f"{train}:7: clip 1 is listed twice in fold 1",
        f"{train}:8: label 8 is out of range: 1..7",
        f"{tmp_path / 'train' / 'set_2.csv'}:2: clip 1 has label 2 here and 1 in {train}:2",
        f"{tmp_path / 'train' / 'set_3.csv'}: cannot be read",
        "fold 3 has no test list",
    ]
    for text in expected:
        assert any(text in fault for fault in faults), f"{text}\nnot in\n" + "\n".join(faults)
    assert len(faults) == len(expected)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    faults = faults_of(tmp_path)
    assert any("no set_k.csv was found" in fault for fault in faults)
    assert any("no clips of form original or clip_224x224 or" in fault for fault in faults)
    assert "does not exist" in faults_of(tmp_path / "nowhere")[0]
    touch(tmp_path / "file.zip")
    assert "is not a folder" in faults_of(tmp_path / "file.zip")[0]


def test_doubled_parts(tmp_path: Path) -> None:
    write_lists(tmp_path / "a")
    write_lists(tmp_path / "b")
    touch(*(tmp_path / "Clip" / "original" / f"{n}.mp4" for n in (1, 2, 3, 10)))
    assert read_dfew(tmp_path).table.num_rows == 4  # the same list twice is harmless
    (tmp_path / "b" / "train" / "set_1.csv").write_text("1,2\n")
    touch(tmp_path / "copy" / "original" / "1.mp4", tmp_path / "Clip" / "original" / "00002.mp4")
    faults = faults_of(tmp_path)
    assert any("set_1.csv: differs from" in fault for fault in faults)
    assert sum("that are there twice" in fault for fault in faults) == 2


def test_links_stay_inside_the_root(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_lists(root)
    touch(*(root / "original" / f"{n}.mp4" for n in (1, 2, 3)), root / "store" / "ten.mp4", tmp_path / "secret.mp4")
    (root / "original" / "10.mp4").symlink_to(root / "store" / "ten.mp4")
    assert read_dfew(root).table.num_rows == 4
    (root / "original" / "11.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "elsewhere").symlink_to(tmp_path)
    (root / "original" / "loop").symlink_to(root)
    faults = faults_of(root)
    assert sum("outside of" in fault for fault in faults) == 2
    assert sum("links to a folder that holds it" in fault for fault in faults) == 1
    assert len(faults) == 3


def test_subjects(tmp_path: Path) -> None:
    write_lists(tmp_path)
    touch(*(tmp_path / "original" / f"{n}.mp4" for n in (1, 2, 3, 10)))
    subjects = tmp_path / "subjects.csv"
    subjects.write_text("video_name,subject\n1,s01\n2,s02\n3,s03\n")
    manifest = read_dfew(tmp_path)
    assert manifest.table["subject"].to_pylist() == ["s01", "s02", "s03", None]
    assert not any("are in train and test" in text for text in manifest.warnings)
    subjects.write_text("1,s01\n2,s02\n3,s01\n")
    assert any("fold 1: 1 subjects are in train and test (first: s01)" in w for w in read_dfew(tmp_path).warnings)
    subjects.write_text("1,s01\n1,s02\n2\n")
    assert len(faults_of(tmp_path)) == 2


def test_counts_are_compared_only_with_something_of_dfews_size(tmp_path: Path) -> None:
    train, test = PUBLISHED_FOLDS[1]
    labels = {n: n % 7 + 1 for n in range(1, train + test + 1)}
    parts = ({n: labels[n] for n in range(1, train + 1)}, {n: labels[n] for n in range(train + 1, train + test + 1)})
    write_lists(tmp_path, {1: parts})
    touch(tmp_path / "original" / "1.mp4")
    manifest = read_dfew(tmp_path)
    assert manifest.table.num_rows == 11697
    assert not any("labelled clips" in text or text.startswith("fold 1 ") for text in manifest.warnings)
    assert "fold 2 has 0 train and 0 test clips; published: (9356, 2341)" in manifest.warnings
