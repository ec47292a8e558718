"""The plan never moves a sample, a part is whole, and only a set with every sample once is committed."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_rows import clip, reject, samples, settings, shard_set

from preprocessing.parts import (
    CLIP_ROW_GROUP,
    commit,
    done_parts,
    make_plan,
    outcome_of,
    part_name,
    planned_samples,
    write_part,
)
from preprocessing.shards import CLIP_SCHEMA, MANIFEST, REJECT_SCHEMA, SCHEMA_VERSION, VERSION_KEY, ShardError


def test_the_plan_cuts_sorted_samples_into_parts(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, samples("abcde"), 2)
    assert plan["part"].to_pylist() == [0, 0, 1, 1, 2]
    assert [s["sample_id"] for s in planned_samples(tmp_path, 1)] == ["c", "d"]


@given(st.lists(st.sets(st.sampled_from("abcdefghij"), min_size=1), min_size=1, max_size=4), st.integers(1, 4))
def test_a_sample_keeps_its_part_whatever_comes_later(tmp_path_factory, batches: list[set[str]], size: int) -> None:
    folder = tmp_path_factory.mktemp("plan")
    before: dict[str, int] = {}
    for batch in batches:
        plan = make_plan(folder, samples(sorted(batch)), size)
        now = dict(zip(plan["sample_id"].to_pylist(), plan["part"].to_pylist(), strict=True))
        assert len(now) == plan.num_rows
        assert set(now) == set(before) | batch
        assert {name: now[name] for name in before} == before
        assert set(before.values()).isdisjoint({now[name] for name in set(now) - set(before)})
        before = now


@pytest.mark.parametrize(
    "column, value",
    [("uris", ["/elsewhere/b.mp4"]), ("label", "fear"), ("splits", ["fold1/test"]), ("subject", "s2")],
)
def test_a_changed_sample_is_refused_by_name(tmp_path: Path, column: str, value: object) -> None:
    make_plan(tmp_path, samples("abc"), 2)
    changed = samples("abc", **{column: value})
    with pytest.raises(ShardError, match=f"3 samples have changed .* e.g. a: {column} was .*build a new set"):
        make_plan(tmp_path, changed, 2)
    assert pq.read_table(tmp_path / "plan.parquet").num_rows == 3


def test_a_part_holds_clips_and_rejects_apart(tmp_path: Path) -> None:
    make_plan(tmp_path, samples("abc"), 3)
    a, b, c = planned_samples(tmp_path, 0)
    outcome = write_part(tmp_path, 0, [clip(a), reject(b), clip(c)])
    assert (outcome.clips, outcome.rejects, outcome.samples) == (2, 1, 3)
    kept = pq.read_table(tmp_path / "parts" / part_name(0))
    refused = pq.read_table(tmp_path / "rejects" / part_name(0))
    assert kept["sample_id"].to_pylist() == ["a", "c"]
    assert refused["kind"].to_pylist() == ["no_face"]
    assert kept.schema.equals(CLIP_SCHEMA) and refused.schema.equals(REJECT_SCHEMA)
    assert kept.schema.metadata[VERSION_KEY].decode() == SCHEMA_VERSION
    assert done_parts(tmp_path) == {0}
    found = outcome_of(tmp_path, [0])
    assert (found.clips, dict(found.kinds), found.examples) == (2, {"no_face": 1}, {"no_face": "no_face here"})


def test_a_part_without_clips_is_done_too(tmp_path: Path) -> None:
    write_part(tmp_path, 4, [reject(s) for s in samples("ab").to_pylist()])
    assert done_parts(tmp_path) == {4}
    assert pq.read_table(tmp_path / "parts" / part_name(4)).num_rows == 0


def test_many_clips_go_out_in_row_groups(tmp_path: Path) -> None:
    names = [f"{i:04d}" for i in range(CLIP_ROW_GROUP * 2 + 1)]
    write_part(tmp_path, 0, (clip(s, frames=1) for s in samples(names).to_pylist()))
    assert pq.read_metadata(tmp_path / "parts" / part_name(0)).num_row_groups == 3
    assert pq.read_table(tmp_path / "parts" / part_name(0))["sample_id"].to_pylist() == names


def test_a_part_that_breaks_off_is_not_there(tmp_path: Path) -> None:
    a, b = samples("ab").to_pylist()

    def rows():
        yield reject(a)
        raise MemoryError(b["sample_id"])

    with pytest.raises(MemoryError):
        write_part(tmp_path, 0, rows())
    assert done_parts(tmp_path) == set()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_rejects_of_an_attempt_that_was_cut_off_do_not_stay(tmp_path: Path) -> None:
    """A clip that timed out in the first attempt and succeeds in the second is one row, not two."""
    chosen, table = settings(tmp_path), samples("ab")
    plan = make_plan(tmp_path, table, 2)
    a, b = table.to_pylist()
    write_part(tmp_path, 0, [clip(a), reject(b, "timeout")])
    (tmp_path / "parts" / part_name(0)).unlink()
    write_part(tmp_path, 0, [clip(a), clip(b)])
    assert commit(tmp_path, plan, chosen, {})["rejects"] == 0


def test_the_manifest_counts_and_seals(tmp_path: Path) -> None:
    table = samples("abcde")
    folder = shard_set(tmp_path, table, rejected="b")
    manifest = json.loads((folder / MANIFEST).read_text())
    assert (manifest["clips"], manifest["rejects"], manifest["frames"], manifest["frames_with_face"]) == (4, 1, 8, 8)
    assert manifest["classes"] == {"happy": 4}
    assert manifest["splits"] == {"fold1/train": {"happy": 4}}
    assert manifest["reject_kinds"] == {"no_face": 1}
    assert manifest["settings"]["clips_per_part"] == 2
    for name, facts in manifest["parts"].items():
        content = (folder / "parts" / name).read_bytes()
        assert (facts["bytes"], facts["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (shard_set(tmp_path / name, samples("abcde"), rejected="b") for name in ("x", "y"))
    digests = [json.loads((folder / MANIFEST).read_text())["parts"] for folder in (one, two)]
    assert digests[0] == digests[1]


FAULTS = {
    "lost": (["a"], r"1 samples, e.g. b has no row; delete parts/part-00000.parquet"),
    "doubled": (["a", "b", "b"], r"1 samples, e.g. b has several rows"),
    "unknown": (["a", "b", "z"], r"1 samples, e.g. z is not in the plan"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_set_that_is_not_exact_is_never_committed(tmp_path: Path, fault: str) -> None:
    names, message = FAULTS[fault]
    plan = make_plan(tmp_path, samples("ab"), 2)
    write_part(tmp_path, 0, [clip(s) for s in samples(names).to_pylist()])
    with pytest.raises(ShardError, match=message):
        commit(tmp_path, plan, settings(tmp_path), {})
    assert not (tmp_path / MANIFEST).exists()
