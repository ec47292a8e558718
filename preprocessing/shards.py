"""Shard sets: plain Parquet parts that are committed whole, a plan that fixes them, a manifest written last.

Layout of <out>/<dataset>/<fingerprint>/:
    plan.parquet              the sample table with the part of each sample
    parts/part-00000.parquet  clip rows (CLIP_SCHEMA); present = the part is committed
    rejects/part-00000.parquet reject rows (REJECT_SCHEMA) of the same part
    _manifest.json            counts, checksums, settings; present = the set is complete
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.config import PreprocessSettings
from preprocessing.faces.align import TEMPLATES

SCHEMA_VERSION = "1"
CODE_VERSION = 1
"""Raised whenever a change of code changes crops: it is part of the fingerprint."""
VERSION_KEY = b"ferflow.schema_version"
PLAN, MANIFEST = "plan.parquet", "_manifest.json"
PLAN_ROW_GROUP = 4096
FROZEN_COLUMNS = ("uris", "label", "splits", "subject", "media")

_LIST = pa.list_
CLIP_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("dataset", pa.string()),
        ("label", pa.string()),
        ("dataset_label", pa.string()),
        ("subject", pa.string()),
        ("splits", _LIST(pa.string())),
        ("media", pa.string()),
        ("uri", pa.string()),
        ("frames", _LIST(pa.binary())),
        ("frame_index", _LIST(pa.int32())),
        ("timestamp_ms", _LIST(pa.float64())),
        ("face_found", _LIST(pa.bool_())),
        ("box", _LIST(_LIST(pa.float32()))),
        ("landmarks", _LIST(_LIST(pa.float32()))),
        ("score", _LIST(pa.float32())),
        ("sharpness", _LIST(pa.float32())),
        ("source_width", pa.int32()),
        ("source_height", pa.int32()),
        ("source_fps", pa.float64()),
        ("source_frames", pa.int32()),
        ("source_codec", pa.string()),
        ("source_sha256", pa.string()),
        ("decoder", pa.string()),
        ("decoder_version", pa.string()),
        ("aligner", pa.string()),
        ("aligner_version", pa.string()),
        ("salvaged", pa.bool_()),
        ("fingerprint", pa.string()),
    ],
    metadata={VERSION_KEY: SCHEMA_VERSION},
)
"""One row per clip; the lists run over its frames. Boxes are x0, y0, x1, y1, landmarks x, y times five, in source pixels."""

REJECT_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("dataset", pa.string()),
        ("label", pa.string()),
        ("splits", _LIST(pa.string())),
        ("uri", pa.string()),
        ("stage", pa.string()),
        ("kind", pa.string()),
        ("message", pa.string()),
        ("fingerprint", pa.string()),
    ],
    metadata={VERSION_KEY: SCHEMA_VERSION},
)
"""One row per sample that became no clip."""


class ShardError(ValueError):
    """A shard set is missing, incomplete, damaged or of another kind; names the path and the fix."""


def fingerprint(settings: PreprocessSettings) -> str:
    """Twelve hex digits that stand for everything that shapes a row: settings, template, weights, format, code."""
    facts: dict[str, Any] = {
        "sampling": settings.sampling.model_dump(mode="json"),
        "decode": settings.decode.model_dump(mode="json", exclude={"timeout_s"}),
        "faces": settings.faces.model_dump(mode="json"),
        "template": TEMPLATES[settings.faces.template].tolist(),
        "schema": SCHEMA_VERSION,
        "code": CODE_VERSION,
    }
    if settings.faces.aligner == "centerface":
        from preprocessing.faces.centerface import read_weights

        facts["weights"] = hashlib.sha256(read_weights()).hexdigest()
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def shard_set_path(settings: PreprocessSettings) -> Path:
    """Absolute folder of the shard set that these settings make."""
    name = settings.dataset.name or settings.dataset.reader
    return Path(settings.out).absolute() / name / fingerprint(settings)


@dataclass(frozen=True)
class ShardSet:
    """A complete shard set."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> "ShardSet":
        """Open a shard set by its folder, or by the data set's folder when that holds exactly one complete set.

        Raises:
            ShardError: none there, several, incomplete, or of another format version.
        """
        path = Path(path).absolute()
        if not (path / MANIFEST).exists():
            path = _only_set(path)
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["schema_version"] != SCHEMA_VERSION:
            raise ShardError(
                f"{path}: format version {manifest['schema_version']}, this program reads {SCHEMA_VERSION}: preprocess again"
            )
        missing = [name for name in manifest["parts"] if not (path / "parts" / name).exists()]
        if missing:
            raise ShardError(f"{path}: {len(missing)} parts are gone, e.g. {missing[0]}: run jobs.preprocess again")
        return cls(path, manifest)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the settings that made it."""
        return self.manifest["fingerprint"]

    def parts(self) -> list[Path]:
        """Files with clip rows, in order; empty ones are left out."""
        return [self.path / "parts" / name for name, facts in self.manifest["parts"].items() if facts["clips"]]

    def rejects(self) -> pa.Table:
        """All reject rows."""
        names = [name for name, facts in self.manifest["parts"].items() if facts["rejects"]]
        tables = [pq.read_table(self.path / "rejects" / name, schema=REJECT_SCHEMA) for name in names]
        return pa.concat_tables(tables) if tables else REJECT_SCHEMA.empty_table()

    def clips(self, columns: Sequence[str]) -> pa.Table:
        """Columns of all clip rows."""
        tables = [pq.read_table(part, columns=list(columns)) for part in self.parts()]
        schema = pa.schema([CLIP_SCHEMA.field(name) for name in columns])
        return pa.concat_tables(tables) if tables else schema.empty_table()


def _only_set(path: Path) -> Path:
    found = sorted(path.glob(f"*/{MANIFEST}")) or sorted(path.glob(f"*/*/{MANIFEST}"))
    if len(found) == 1:
        return found[0].parent
    if found:
        names = ", ".join(str(f.parent.relative_to(path)) for f in found)
        raise ShardError(f"{path} holds {len(found)} shard sets ({names}): name one of them")
    state = "is not finished" if (path / PLAN).exists() else "does not exist"
    raise ShardError(f"shard set {path} {state}: run python -m jobs.preprocess with this recipe first")


def part_name(part: int) -> str:
    """File name of a part."""
    return f"part-{part:05d}.parquet"


def make_plan(folder: Path, table: pa.Table, clips_per_part: int) -> pa.Table:
    """Fix the part of each sample, or extend the plan that is there with samples that are new.

    Samples keep their part for ever: any run, however often it is interrupted, writes the same rows into the same file.

    Raises:
        ShardError: a sample of the plan has another file, label, split or subject now.
    """
    path = folder / PLAN
    old = pq.read_table(path) if path.exists() else None
    if old is not None:
        _refuse_changes(path, old, table)
        known = set(old["sample_id"].to_pylist())
        table = table.filter(pa.array([i not in known for i in table["sample_id"].to_pylist()], pa.bool_()))
    first = 0 if old is None else int(max(old["part"].to_pylist(), default=-1)) + 1
    parts = pa.array([first + i // clips_per_part for i in range(table.num_rows)], pa.int32())
    plan = table.append_column("part", parts)
    if old is not None:
        plan = pa.concat_tables([old, plan.cast(old.schema)])
    if old is None or table.num_rows:
        write_table(path, plan, row_group_size=PLAN_ROW_GROUP)
    return plan


def _refuse_changes(path: Path, old: pa.Table, new: pa.Table) -> None:
    columns = ["sample_id", *FROZEN_COLUMNS]
    before = {row["sample_id"]: row for row in old.select(columns).to_pylist()}
    for row in new.select(columns).to_pylist():
        planned = before.get(row["sample_id"])
        changed = [c for c in FROZEN_COLUMNS if planned is not None and planned[c] != row[c]]
        if changed:
            raise ShardError(
                f"{path}: {row['sample_id']} has changed since the shard set was begun: {changed[0]} was "
                f"{planned[changed[0]]!r}, is {row[changed[0]]!r}; preprocess into another folder (preprocess.out)"
            )


def write_part(folder: Path, part: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of a part: rejects first, clips last, each file whole or not at all.

    The clip file is written even when it is empty: it marks the part as done.
    """
    clips = [row for row in rows if "kind" not in row]
    rejects = [row for row in rows if "kind" in row]
    name = part_name(part)
    if rejects:
        write_table(folder / "rejects" / name, pa.Table.from_pylist(rejects, schema=REJECT_SCHEMA))
    write_table(folder / "parts" / name, pa.Table.from_pylist(clips, schema=CLIP_SCHEMA))


def write_table(path: Path, table: pa.Table, row_group_size: int = 64) -> None:
    """Write a Parquet file in one step: temporary name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table, fresh, row_group_size=row_group_size, compression="zstd")
        _sync(fresh)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    _sync(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step."""
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_text(json.dumps(content, indent=1), encoding="utf-8")
    _sync(fresh)
    fresh.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def done_parts(folder: Path) -> set[int]:
    """Numbers of the parts that are committed."""
    return {int(path.stem.removeprefix("part-")) for path in (folder / "parts").glob("part-*.parquet")}


def commit(folder: Path, plan: pa.Table, settings: PreprocessSettings, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Check that every planned sample is exactly one row and write the manifest; returns it.

    Raises:
        ShardError: rows are missing, doubled or unknown.
    """
    parts: dict[str, dict[str, Any]] = {}
    clips, rejects = [], []
    for part in sorted(done_parts(folder)):
        name = part_name(part)
        path, refused = folder / "parts" / name, folder / "rejects" / name
        rows = list(_rows(path, ["sample_id", "label", "splits"]))
        bad = list(_rows(refused, ["sample_id", "label", "splits", "kind"])) if refused.exists() else []
        digests = {"sha256": _sha256(path)} | ({"rejects_sha256": _sha256(refused)} if bad else {})
        parts[name] = {"clips": len(rows), "rejects": len(bad), **digests}
        clips += rows
        rejects += bad
    _check_ids(folder, plan["sample_id"].to_pylist(), [r["sample_id"] for r in clips + rejects])
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint(settings),
        "settings": settings.model_dump(mode="json"),
        "clips": len(clips),
        "rejects": len(rejects),
        "classes": dict(Counter(r["label"] for r in clips)),
        "splits": dict(sorted(Counter(s for r in clips for s in r["splits"]).items())),
        "reject_kinds": dict(Counter(r["kind"] for r in rejects)),
        **facts,
        "parts": parts,
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def _rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    yield from pq.read_table(path, columns=columns).to_pylist()


def _check_ids(folder: Path, planned: list[str], written: list[str]) -> None:
    counts = Counter(written)
    doubled = [i for i, n in counts.items() if n > 1]
    lost, unknown = set(planned) - set(counts), set(counts) - set(planned)
    for name, ids in (("twice", doubled), ("missing", lost), ("not planned", unknown)):
        if ids:
            raise ShardError(f"{folder}: {len(ids)} samples are {name}, e.g. {min(ids)}: remove its part and run again")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
