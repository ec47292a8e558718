"""Sample tables, rows and whole shard sets without media, for tests of what is written and read."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from preprocessing.config import PreprocessSettings, validate
from preprocessing.manifest import SAMPLE_SCHEMA
from preprocessing.parts import commit, make_plan, planned_samples, write_part
from preprocessing.shards import CLIP_SCHEMA, shard_set_path


def settings(out: Path | str, **more: object) -> PreprocessSettings:
    """Settings of a set `demo` below `out`, two clips a part."""
    tree = {"dataset": {"root": "/none", "name": "demo"}, "out": str(out), "clips_per_part": 2}
    return validate(PreprocessSettings, tree | more)


def samples(names: Sequence[str], label: str = "happy", **more: object) -> pa.Table:
    """SAMPLE_SCHEMA rows."""
    rows = [
        dict.fromkeys(SAMPLE_SCHEMA.names)
        | {"sample_id": name, "dataset": "demo", "media": "video", "uris": [f"/d/{name}.mp4"], "label": label}
        | {"dataset_label": "1", "splits": ["fold1/train"]}
        | more
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)


def clip(sample: dict, frames: int = 2, colour: tuple[int, int, int] = (90, 120, 150)) -> dict:
    """A clip row of a sample, with crops of one colour."""
    jpeg = cv2.imencode(".jpg", np.full((32, 32, 3), colour, np.uint8))[1].tobytes()
    lists = {"frames": jpeg, "frame_index": 0, "timestamp_ms": 0.0, "face_found": True, "score": 0.9, "sharpness": 0.1}
    row = dict.fromkeys(CLIP_SCHEMA.names) | {name: [value] * frames for name, value in lists.items()}
    row |= {"box": [[0.0] * 4] * frames, "landmarks": [[0.0] * 10] * frames}
    keys = ("sample_id", "dataset", "label", "dataset_label", "subject", "media", "splits")
    return row | {key: sample[key] for key in keys} | {"uri": sample["uris"][0]}


def reject(sample: dict, kind: str = "no_face") -> dict:
    """A reject row of a sample."""
    row = {key: sample[key] for key in ("sample_id", "dataset", "label", "splits")}
    return row | {"uri": sample["uris"][0], "stage": "face", "kind": kind, "message": f"{kind} here", "fingerprint": ""}


def shard_set(out: Path, table: pa.Table, rejected: Sequence[str] = (), **more: object) -> Path:
    """Write and commit a whole set without media; returns its folder."""
    chosen = settings(out, **more)
    folder = shard_set_path(chosen)
    plan = make_plan(folder, table, chosen.clips_per_part)
    for part in sorted(set(plan["part"].to_pylist())):
        rows = planned_samples(folder, part)
        write_part(folder, part, (reject(s) if s["sample_id"] in rejected else clip(s) for s in rows))
    commit(folder, plan, chosen, {})
    return folder
