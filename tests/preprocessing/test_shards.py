"""Fingerprints name what shapes rows; a reader opens complete sets only."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from shard_rows import samples, settings, shard_set

from preprocessing.parts import make_plan
from preprocessing.shards import MANIFEST, PLAN, ShardError, ShardSet, fingerprint, shard_set_path

SHAPES_ROWS = [
    {"sampling": {"frames": 8}},
    {"decode": {"decoder": "pyav"}},
    {"decode": {"salvage": False}},
    {"faces": {"crop_px": 112}},
    {"faces": {"template": "arcface"}},
    {"faces": {"aligner": "none"}},
    {"dataset": {"root": "/none", "name": "demo", "media": "original"}},
    {"dataset": {"root": "/none", "name": "demo", "limit": 10}},
]
ONLY_WORK = [
    {"dataset": {"root": "/moved", "name": "other"}},
    {"clips_per_part": 999},
    {"actors": 7},
    {"max_reject_share": 0.9},
    {"decode": {"timeout_s": 5}},
]


@pytest.mark.parametrize("change", SHAPES_ROWS, ids=str)
def test_what_shapes_rows_changes_the_fingerprint(tmp_path: Path, change: dict) -> None:
    assert fingerprint(settings(tmp_path, **change)) != fingerprint(settings(tmp_path))


@pytest.mark.parametrize("change", ONLY_WORK, ids=str)
def test_what_only_moves_or_times_the_work_does_not(tmp_path: Path, change: dict) -> None:
    assert fingerprint(settings(tmp_path / "elsewhere", **change)) == fingerprint(settings(tmp_path))


def test_the_path_says_data_set_and_fingerprint(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    assert shard_set_path(chosen) == tmp_path / "demo" / fingerprint(chosen)
    unnamed = settings(tmp_path, dataset={"root": "/none", "reader": "dfew"})
    assert shard_set_path(unnamed).parent == tmp_path / "dfew"


def test_a_uri_is_refused_not_turned_into_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"preprocess.out = 's3://bucket/x': give a folder"):
        shard_set_path(settings("s3://bucket/x"))


def test_opens_by_its_folder_and_by_the_data_set(tmp_path: Path) -> None:
    folder = shard_set(tmp_path, samples("abcde"), rejected=["a", "b", "e"])
    for path in (folder, folder.parent, str(folder)):
        opened = ShardSet.open(path)
        assert opened.path == folder
        assert opened.fingerprint == folder.name
    assert [p.name for p in opened.parts()] == ["part-00001.parquet"]
    assert opened.rejects()["sample_id"].to_pylist() == ["a", "b", "e"]
    assert opened.clips(["sample_id", "label"]).to_pylist() == [
        {"sample_id": "c", "label": "happy"},
        {"sample_id": "d", "label": "happy"},
    ]


def test_a_set_of_rejects_alone_can_be_read(tmp_path: Path) -> None:
    opened = ShardSet.open(shard_set(tmp_path, samples("ab"), rejected="ab"))
    assert opened.parts() == []
    assert opened.clips(["sample_id"]).num_rows == 0


def test_two_sets_of_a_data_set_must_be_told_apart(tmp_path: Path) -> None:
    one = shard_set(tmp_path, samples("ab"))
    two = shard_set(tmp_path, samples("ab"), faces={"crop_px": 64})
    with pytest.raises(ShardError, match=f"2 shard sets .*({one.name}|{two.name})"):
        ShardSet.open(tmp_path / "demo")


def test_what_is_not_there_or_not_finished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"does not exist: run python -m jobs.preprocess"):
        ShardSet.open(tmp_path / "nowhere")
    folder = shard_set_path(settings(tmp_path))
    make_plan(folder, samples("abc"), 2)
    with pytest.raises(ShardError, match=r"is not finished: run python -m jobs.preprocess"):
        ShardSet.open(folder)


def test_a_set_that_was_extended_and_not_built_is_refused(tmp_path: Path) -> None:
    folder = shard_set(tmp_path, samples("abc"))
    make_plan(folder, samples("abcd"), 2)
    with pytest.raises(ShardError, match=r"4 samples are planned, 3 are finished"):
        ShardSet.open(folder)


def test_lost_and_damaged_parts_are_named(tmp_path: Path) -> None:
    folder = shard_set(tmp_path, samples("abcd"))
    part = folder / "parts" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(ShardError, match=r"part-00001.parquet is damaged: delete it"):
        ShardSet.open(folder)
    part.unlink()
    with pytest.raises(ShardError, match=r"part-00001.parquet is gone"):
        ShardSet.open(folder)


def test_another_format_and_a_broken_manifest_are_refused(tmp_path: Path) -> None:
    folder = shard_set(tmp_path, samples("ab"))
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"schema_version": "99"}))
    with pytest.raises(ShardError, match=r"format version 99, this program reads 1"):
        ShardSet.open(folder)
    (folder / MANIFEST).write_text('{"clips": ')
    with pytest.raises(ShardError, match=r"_manifest.json is damaged"):
        ShardSet.open(folder)


def test_shards_need_no_reader_of_ours(tmp_path: Path) -> None:
    """Plain Parquet: pandas gives the same rows, JPEG bytes included."""
    import pandas

    folder = shard_set(tmp_path, samples("ab"))
    frame = pandas.read_parquet(folder / "parts" / "part-00000.parquet")
    assert list(frame["sample_id"]) == ["a", "b"]
    assert bytes(frame["frames"][0][0]).startswith(b"\xff\xd8")
    assert pq.read_table(folder / PLAN).column_names[-1] == "part"
