"""Shard sets as readers see them: schemas, the fingerprint that names a set, and the complete set on disk.

Layout of <out>/<dataset>/<fingerprint>/ (written by `preprocessing.parts`):
    plan.parquet                the sample table with the part of each sample
    parts/part-00000.parquet    clip rows (CLIP_SCHEMA); present = the part is committed
    rejects/part-00000.parquet  reject rows (REJECT_SCHEMA) of the same part, if it has any
    _manifest.json              counts, checksums, settings; present = the set is complete
"""

import hashlib
import json
from collections.abc import Sequence
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
PLAN, MANIFEST, PARTS, REJECTS = "plan.parquet", "_manifest.json", "parts", "rejects"

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
"""One row per clip; the lists run over its frames.

frames: JPEG crops. timestamp_ms: NaN where the source has no clock. face_found: a face was detected in this very
frame. box (x0, y0, x1, y1) and score: of the detection; NaN and 0 without one. landmarks (five times x, y): those that
aligned the crop, interpolated or borrowed where face_found is false; NaN where the crop is the picture's centre.
All coordinates are source pixels. sharpness: see `preprocessing.faces.align.sharpness`.
"""

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
    """Twelve hex digits that stand for what shapes the rows: settings, template, weights, format, code.

    Left out is what only moves or times the work: paths, clips_per_part, actors, the failure budget, timeout_s.
    """
    facts: dict[str, Any] = {
        "dataset": settings.dataset.model_dump(mode="json", include={"reader", "media", "limit"}),
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
    """Absolute folder of the shard set that these settings make.

    Raises:
        ShardError: `out` is a URI.
    """
    if "://" in settings.out:
        raise ShardError(f"preprocess.out = {settings.out!r}: give a folder, one that every node mounts, not a URI")
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
        manifest = _read_manifest(path / MANIFEST)
        planned = pq.read_metadata(path / PLAN).num_rows
        if planned != manifest["clips"] + manifest["rejects"]:
            raise ShardError(
                f"{path}: {planned} samples are planned, {manifest['clips'] + manifest['rejects']} are finished: "
                "run jobs.preprocess again"
            )
        for name, facts in manifest["parts"].items():
            part = path / PARTS / name
            if not part.exists() or part.stat().st_size != facts["bytes"]:
                state = "is damaged: delete it and" if part.exists() else "is gone:"
                raise ShardError(f"{part} {state} run jobs.preprocess again")
        return cls(path, manifest)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the settings that made it."""
        return self.manifest["fingerprint"]

    def parts(self) -> list[Path]:
        """Files with clip rows, in order; empty ones are left out."""
        return [self.path / PARTS / name for name, facts in self.manifest["parts"].items() if facts["clips"]]

    def rejects(self) -> pa.Table:
        """All reject rows."""
        names = [name for name, facts in self.manifest["parts"].items() if facts["rejects"]]
        tables = [pq.read_table(self.path / REJECTS / name, schema=REJECT_SCHEMA) for name in names]
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


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{path} is damaged ({error!r}): delete it and run jobs.preprocess again") from error
    if version != SCHEMA_VERSION:
        raise ShardError(
            f"{path.parent}: format version {version}, this program reads {SCHEMA_VERSION}: preprocess again"
        )
    return manifest
