"""A shard set in the making: the plan that fixes its parts, the parts, and the manifest that completes it.

Exactly once by construction: the plan says which samples form a part, a part is written whole or not at all, and
writing it again writes the same samples under the same name.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.config import PreprocessSettings
from preprocessing.shards import (
    CLIP_SCHEMA,
    MANIFEST,
    PARTS,
    PLAN,
    REJECT_SCHEMA,
    REJECTS,
    SCHEMA_VERSION,
    ShardError,
    fingerprint,
)
from preprocessing.storage import COMPRESSION, staged, write_json, write_table

PLAN_ROW_GROUP = 4096
CLIP_ROW_GROUP = 32
"""Clips held in memory while a part is written."""
FROZEN_COLUMNS = ("media", "uris", "label", "dataset_label", "splits", "subject")
"""What a sample may not change once it is planned: finished rows carry it."""

Row = dict[str, Any]


@dataclass
class Outcome:
    """What became of the samples of one or more parts."""

    clips: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """One message per reject kind."""

    @property
    def rejects(self) -> int:
        """Samples that became no clip."""
        return self.kinds.total()

    @property
    def samples(self) -> int:
        """Finished samples, clips or not."""
        return self.clips + self.rejects

    def reject(self, row: Mapping[str, Any]) -> None:
        """Count a reject row."""
        self.kinds[row["kind"]] += 1
        self.examples.setdefault(row["kind"], row["message"])

    def add(self, other: "Outcome") -> None:
        """Add the samples of another part."""
        self.clips += other.clips
        self.kinds += other.kinds
        self.examples = other.examples | self.examples


def part_name(part: int) -> str:
    """File name of a part."""
    return f"part-{part:05d}.parquet"


def make_plan(folder: Path, table: pa.Table, clips_per_part: int) -> pa.Table:
    """Fix the part of each sample, or extend the plan that is there with samples that are new.

    Samples keep their part for ever; new ones form new parts. An extended set is incomplete until it is built.

    Args:
        table: SAMPLE_SCHEMA, sorted by sample_id.

    Returns:
        The sample table of the whole plan with a column `part` (int32).

    Raises:
        ShardError: a sample of the plan has another file, label, split or subject now.
    """
    path = folder / PLAN
    if not path.exists():
        plan = _with_parts(table, 0, clips_per_part)
        write_table(path, plan, PLAN_ROW_GROUP)
        return plan
    old = pq.read_table(path)
    _refuse_changes(path, old, table)
    known = set(old["sample_id"].to_pylist())
    new = table.filter(pa.array([i not in known for i in table["sample_id"].to_pylist()], pa.bool_()))
    if not new.num_rows:
        return old
    first = max(old["part"].to_pylist(), default=-1) + 1
    plan = pa.concat_tables([old, _with_parts(new, first, clips_per_part).cast(old.schema)])
    write_table(path, plan, PLAN_ROW_GROUP)
    return plan


def _with_parts(table: pa.Table, first: int, clips_per_part: int) -> pa.Table:
    parts = [first + i // clips_per_part for i in range(table.num_rows)]
    return table.append_column("part", pa.array(parts, pa.int32()))


def _refuse_changes(path: Path, old: pa.Table, new: pa.Table) -> None:
    columns = ["sample_id", *FROZEN_COLUMNS]
    before = {row["sample_id"]: row for row in old.select(columns).to_pylist()}
    changes = [
        (row["sample_id"], column, before[row["sample_id"]][column], row[column])
        for row in new.select(columns).to_pylist()
        for column in FROZEN_COLUMNS
        if row["sample_id"] in before and before[row["sample_id"]][column] != row[column]
    ]
    if changes:
        name, column, was, now = changes[0]
        count = len({change[0] for change in changes})
        raise ShardError(
            f"{path}: {count} samples have changed since this shard set was begun, e.g. {name}: {column} was {was!r}, "
            f"is {now!r}; build a new set (another preprocess.out or preprocess.dataset.name), or put the data back"
        )


def planned_samples(folder: Path, part: int) -> list[Row]:
    """The samples of a part, in the order of the plan."""
    return pq.read_table(folder / PLAN, filters=[("part", "==", part)]).to_pylist()


def done_parts(folder: Path) -> set[int]:
    """Numbers of the parts that are committed."""
    return {int(path.stem.removeprefix("part-")) for path in (folder / PARTS).glob("part-*.parquet")}


def write_part(folder: Path, part: int, rows: Iterable[Row]) -> Outcome:
    """Write the rows of a part as they come: reject rows are in place before the clip file, which commits both.

    The clip file is written even when it is empty: it marks the part as done.
    """
    name, rejected, outcome = part_name(part), [], Outcome()

    def clips() -> Iterator[Row]:
        for row in rows:
            if "kind" in row:
                rejected.append(row)
                outcome.reject(row)
            else:
                outcome.clips += 1
                yield row

    with staged(folder / PARTS / name) as fresh:
        with pq.ParquetWriter(fresh, CLIP_SCHEMA, compression=COMPRESSION) as writer:
            for group in _groups(clips(), CLIP_ROW_GROUP):
                writer.write_table(pa.Table.from_pylist(group, schema=CLIP_SCHEMA))
        if rejected:
            table = pa.Table.from_pylist(rejected, schema=REJECT_SCHEMA)
            write_table(folder / REJECTS / name, table, PLAN_ROW_GROUP)
        else:  # an attempt that was cut off between the two files may have left one
            (folder / REJECTS / name).unlink(missing_ok=True)
    return outcome


def _groups(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def outcome_of(folder: Path, parts: Iterable[int]) -> Outcome:
    """What became of the samples of committed parts."""
    outcome = Outcome()
    for part in parts:
        outcome.clips += pq.read_metadata(folder / PARTS / part_name(part)).num_rows
        for row in _rejects(folder, part, ["kind", "message"]):
            outcome.reject(row)
    return outcome


def _rejects(folder: Path, part: int, columns: list[str]) -> list[Row]:
    path = folder / REJECTS / part_name(part)
    return pq.read_table(path, columns=columns).to_pylist() if path.exists() else []


def commit(folder: Path, plan: pa.Table, settings: PreprocessSettings, facts: Mapping[str, Any]) -> Row:
    """Check that every planned sample is exactly one row, and write the manifest with `facts` in it.

    Raises:
        ShardError: rows are missing, doubled or not planned.
    """
    parts: dict[str, Row] = {}
    clips: list[Row] = []
    rejects: list[Row] = []
    for part in sorted(done_parts(folder)):
        path = folder / PARTS / part_name(part)
        kept = pq.read_table(path, columns=["sample_id", "label", "splits", "face_found"]).to_pylist()
        refused = _rejects(folder, part, ["sample_id", "kind"])
        parts[path.name] = {
            "clips": len(kept),
            "rejects": len(refused),
            "bytes": path.stat().st_size,
            "sha256": _sha256(path),
            "rejects_sha256": _sha256(folder / REJECTS / path.name) if refused else None,
        }
        clips += kept
        rejects += refused
    _check_ids(folder, plan, [row["sample_id"] for row in clips + rejects])
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint(settings),
        "settings": settings.model_dump(mode="json"),
        **_counts(clips, rejects),
        **facts,
        "parts": parts,
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def _counts(clips: list[Row], rejects: list[Row]) -> Row:
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    for row in clips:
        for split in row["splits"]:
            splits[split][row["label"]] += 1
    return {
        "clips": len(clips),
        "rejects": len(rejects),
        "frames": sum(len(row["face_found"]) for row in clips),
        "frames_with_face": sum(sum(row["face_found"]) for row in clips),
        "classes": dict(Counter(row["label"] for row in clips)),
        "splits": {split: dict(splits[split]) for split in sorted(splits)},
        "reject_kinds": dict(Counter(row["kind"] for row in rejects)),
    }


def _check_ids(folder: Path, plan: pa.Table, written: list[str]) -> None:
    part_of = dict(zip(plan["sample_id"].to_pylist(), plan["part"].to_pylist(), strict=True))
    counts = Counter(written)
    faults = {
        "has no row": part_of.keys() - counts.keys(),
        "has several rows": {name for name, count in counts.items() if count > 1},
        "is not in the plan": counts.keys() - part_of.keys(),
    }
    for fault, names in faults.items():
        if names:
            part = f"; delete {PARTS}/{part_name(part_of[min(names)])}" if min(names) in part_of else ""
            raise ShardError(f"{folder}: {len(names)} samples, e.g. {min(names)} {fault}{part} and run again")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
