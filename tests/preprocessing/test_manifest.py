"""The sample table is checked as a whole."""

from pathlib import Path
from typing import Any

import pytest

from preprocessing.manifest import SAMPLE_SCHEMA, Manifest, ManifestError


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "sample_id": f"set/{number:03d}",
        "dataset": "set",
        "media": "video",
        "uris": [f"/nowhere/{number}.mp4"],
        "label": "happy",
        "dataset_label": "1",
        "splits": ["fold1/train"],
    } | changes


def test_rows_are_sorted_and_typed(tmp_path: Path) -> None:
    media = tmp_path / "a.mp4"
    media.touch()
    rows = [row(3, uris=[str(media)]), row(1, subject="s1", face_box=[0, 1, 2, 3]), row(2)]
    manifest = Manifest.from_rows("set", rows, warnings=["counted"])
    assert manifest.table.schema == SAMPLE_SCHEMA
    assert manifest.table["sample_id"].to_pylist() == ["set/001", "set/002", "set/003"]
    assert manifest.table["face_box"].to_pylist() == [[0, 1, 2, 3], None, None]
    assert manifest.warnings[0] == "counted"
    assert "2 of 3 samples have no media file (first: set/001)" in manifest.warnings[1]


def test_limit_keeps_the_first_ids() -> None:
    manifest = Manifest.from_rows("set", [row(n) for n in (5, 4, 9)], limit=2)
    assert manifest.table["sample_id"].to_pylist() == ["set/004", "set/005"]


def test_every_fault_is_reported_at_once() -> None:
    rows = [
        row(1, label="joyful", splits=["train"]),
        row(2, media="movie"),
        row(2),
        row(3, uris=["relative.mp4"], face_landmarks=[1.0]),
        row(4, uris=["/a", "/b"]),
        row(5, uris=["/bad\udcff.mp4"]),
        row(6, folds=1),
        row(7, sample_id=""),
    ]
    with pytest.raises(ManifestError) as error:
        Manifest.from_rows("set", rows, faults=["set.csv:3: malformed"])
    faults = error.value.faults
    for text in (
        "set.csv:3: malformed",
        "set/001: label = 'joyful'",
        "set/001: split 'train'",
        "set/002: media = 'movie'",
        "set/002: the id is used 2 times",
        "set/003: uri 'relative.mp4'",
        "set/003: face_landmarks has 1 numbers, needs 10",
        "set/004: video needs exactly one uri, has 2",
        "is not valid UTF-8",
        "set/006: unknown column 'folds'",
        "sample without an id: sample_id is empty",
    ):
        assert any(text in fault for fault in faults), text
    assert len(faults) == 11


def test_an_empty_data_set_is_a_fault() -> None:
    with pytest.raises(ManifestError, match="no sample was found"):
        Manifest.from_rows("/data/set", [])


def test_a_long_list_of_faults_stays_readable() -> None:
    error = ManifestError("set", [f"fault {i}" for i in range(1000)])
    assert len(error.faults) == 1000
    assert str(error).endswith("... and 950 more")
