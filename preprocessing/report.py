"""What a shard set holds, for people: contact sheet, counts, reject table."""

from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq

from preprocessing.labels import CONTEMPT, EMOTIONS
from preprocessing.shards import ShardSet

CONTACT_SHEET = "contact_sheet.png"
TILE_PX = 112
GAP_PX = 4
LABEL_PX = 132
SCAN_PARTS = 64
"""A contact sheet looks into at most so many parts, spread over the set."""


def contact_sheet(path: Path, out: Path, per_class: int = 10) -> Path:
    """Draw one row of aligned faces per class, each the middle frame of another clip, and save it as PNG.

    A frame in which no face was found has an orange border.
    """
    from matplotlib.figure import Figure

    shard_set = ShardSet.open(path)
    counts = shard_set.manifest["classes"]
    rows = _examples(shard_set, per_class)
    labels = [name for name in (*EMOTIONS, CONTEMPT, "") if name in counts]
    width = per_class * (TILE_PX + GAP_PX)
    figure = Figure(figsize=((width + LABEL_PX) / 100, (len(labels) * (TILE_PX + GAP_PX) + 44) / 100), dpi=100)
    grid = figure.subplots(len(labels), 1, squeeze=False)[:, 0]
    for axes, label in zip(grid, labels, strict=True):
        axes.imshow(_strip(rows[label], per_class))
        axes.set_axis_off()
        axes.text(
            -8, TILE_PX / 2, f"{label or 'unlabelled'}\n{counts[label]:,} clips", ha="right", va="center", fontsize=11
        )
    figure.suptitle(f"{shard_set.path.parent.name}: {shard_set.manifest['clips']:,} clips", x=0.5, fontsize=12)
    figure.subplots_adjust(
        LABEL_PX / (width + LABEL_PX), 0.005, 0.998, 1 - 40 / (figure.get_figheight() * 100), hspace=0.02
    )
    figure.savefig(out)
    return out


def _examples(shard_set: ShardSet, per_class: int) -> dict[str, list[tuple[bytes, bool]]]:
    parts = shard_set.parts()
    chosen = [parts[i] for i in np.unique(np.linspace(0, len(parts) - 1, min(SCAN_PARTS, len(parts))).astype(int))]
    rows: dict[str, list[tuple[bytes, bool]]] = defaultdict(list)
    for part in chosen:
        for row in pq.read_table(part, columns=["label", "frames", "face_found"]).to_pylist():
            if len(rows[row["label"]]) < per_class:
                middle = len(row["frames"]) // 2
                rows[row["label"]].append((row["frames"][middle], row["face_found"][middle]))
    return rows


def _strip(examples: list[tuple[bytes, bool]], per_class: int) -> np.ndarray:
    strip = np.full((TILE_PX, per_class * (TILE_PX + GAP_PX), 3), 255, np.uint8)
    for i, (data, found) in enumerate(examples):
        picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        tile = cv2.resize(picture, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
        if not found:
            cv2.rectangle(tile, (0, 0), (TILE_PX - 1, TILE_PX - 1), (230, 130, 0), 5)
        left = i * (TILE_PX + GAP_PX)
        strip[:, left : left + TILE_PX] = tile
    return strip


def summary(path: Path) -> str:
    """Counts per class, share of frames with a face, rejects by kind with an example, as plain text."""
    shard_set = ShardSet.open(path)
    manifest = shard_set.manifest
    found = shard_set.clips(["face_found"])["face_found"].combine_chunks().flatten()
    share = found.true_count / max(1, len(found))
    classes = ", ".join(f"{name or 'unlabelled'} {count:,}" for name, count in manifest["classes"].items())
    lines = [
        f"{manifest['clips']:,} clips, {manifest['rejects']:,} rejects; a face in {share:.1%} of {len(found):,} frames",
        f"  {classes}",
    ]
    examples = {row["kind"]: row["message"] for row in shard_set.rejects().to_pylist()}
    for kind, count in Counter(manifest["reject_kinds"]).most_common():
        lines.append(f"  rejected {count:,} {kind}: e.g. {examples[kind]}")
    return "\n".join(lines)
