"""The sample table: what every data-set reader yields, validated as a whole."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from preprocessing.labels import CONTEMPT, EMOTIONS

MEDIA = ("video", "frames", "image")

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),  # stable and readable: "<dataset>/<id>"
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("media", pa.string(), nullable=False),  # one of MEDIA
        pa.field("uris", pa.list_(pa.string()), nullable=False),  # absolute paths; frames: in time order
        pa.field("label", pa.string(), nullable=False),  # canonical emotion; "" = not labelled
        pa.field("dataset_label", pa.string(), nullable=False),  # as published
        pa.field("splits", pa.list_(pa.string()), nullable=False),  # e.g. ["fold1/train", "fold2/test"]
        pa.field("subject", pa.string()),
        pa.field("face_box", pa.list_(pa.float32())),  # x0, y0, x1, y1 in source pixels
        pa.field("face_landmarks", pa.list_(pa.float32())),  # five points as x, y in source pixels
    ]
)

_SPLIT = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
_SHOWN_FAULTS = 50
_LENGTHS = {"face_box": 4, "face_landmarks": 10}


class ManifestError(ValueError):
    """All faults of a data set at once, with path and line where there is one; the message shows the first 50."""

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        noun = "fault" if len(self.faults) == 1 else "faults"
        lines = [f"  - {fault}" for fault in self.faults[:_SHOWN_FAULTS]]
        if len(self.faults) > _SHOWN_FAULTS:
            lines.append(f"  ... and {len(self.faults) - _SHOWN_FAULTS} more")
        super().__init__("\n".join([f"{source}: {len(self.faults)} {noun}", *lines]))


@dataclass(frozen=True)
class Manifest:
    """A valid sample table (SAMPLE_SCHEMA, unique ids in ascending order) and what the reader noticed."""

    table: pa.Table
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def from_rows(
        cls,
        source: str | Path,
        rows: Iterable[Mapping[str, Any]],
        *,
        warnings: Sequence[str] = (),
        faults: Sequence[str] = (),
        limit: int | None = None,
    ) -> "Manifest":
        """Check the rows, sort them by sample_id and keep the first `limit`.

        Columns that are left out are null. Media files that do not exist are counted in a warning, not
        refused: they become rejects of kind `missing`.

        Raises:
            ManifestError: every fault of the rows together with the `faults` that the reader found.
        """
        rows = sorted(rows, key=lambda row: str(row.get("sample_id", "")))
        faults = [*faults, *(fault for row in rows for fault in _row_faults(row)), *_duplicate_ids(rows)]
        if not rows and not faults:
            faults.append("no sample was found: check that the root holds the data set")
        if faults:
            raise ManifestError(str(source), list(dict.fromkeys(faults)))
        rows = rows[:limit]
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=SAMPLE_SCHEMA)
        return cls(table, [*warnings, *_missing_media(rows)])


def _row_faults(row: Mapping[str, Any]) -> list[str]:
    name = row.get("sample_id") or "sample without an id"
    faults = [f"unknown column {key!r}" for key in row if key not in SAMPLE_SCHEMA.names]
    if not row.get("sample_id"):
        faults.append("sample_id is empty")
    if row.get("media") not in MEDIA:
        faults.append(f"media = {row.get('media')!r}: use one of {', '.join(MEDIA)}")
    uris = row.get("uris") or []
    faults += [f"uri {uri!r} is not an absolute path" for uri in uris if not os.path.isabs(uri)]  # noqa: PTH117 - of a million frames
    faults += [f"uri {uri!r} is not valid UTF-8: rename it" for uri in uris if not _is_utf8(uri)]
    if row.get("media") in ("video", "image") and len(uris) != 1:
        faults.append(f"{row['media']} needs exactly one uri, has {len(uris)}")
    if row.get("label") not in ("", CONTEMPT, *EMOTIONS):
        faults.append(f"label = {row.get('label')!r}: use a canonical emotion ({', '.join(EMOTIONS)}, {CONTEMPT})")
    splits = row.get("splits") or []
    faults += [f"split {split!r}: write it as fold/part" for split in splits if not _SPLIT.fullmatch(split)]
    for column, length in _LENGTHS.items():
        if row.get(column) is not None and len(row[column]) != length:
            faults.append(f"{column} has {len(row[column])} numbers, needs {length}")
    return [f"{name}: {fault}" for fault in faults]


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _duplicate_ids(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    count = Counter(row.get("sample_id") for row in rows)
    return [f"{name}: the id is used {n} times" for name, n in count.items() if name and n > 1]


def _missing_media(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    absent = [row["sample_id"] for row in rows if not row["uris"] or not Path(row["uris"][0]).exists()]
    if not absent:
        return []
    return [f"{len(absent)} of {len(rows)} samples have no media file (first: {absent[0]}): they become rejects"]
