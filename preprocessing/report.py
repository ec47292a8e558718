"""What a shard set holds, for people: contact sheet, counts, reject table."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from preprocessing.labels import CONTEMPT, EMOTIONS
from preprocessing.shards import ShardSet

CONTACT_SHEET = "contact_sheet.png"
TILE_PX = 112
GAP_PX = 4
LABEL_PX = 132
TITLE_PX = 40
SCAN_PARTS = 32
"""A contact sheet looks into at most so many parts, spread over the set."""
NO_FACE_RGB = (230, 130, 0)

Tile = tuple[bytes, bool]


def contact_sheet(path: Path, out: Path, per_class: int = 10) -> Path:
    """Draw one row of aligned faces per class and save it as PNG.

    Each is the middle frame of another clip; of few clips, several frames in time order. A frame in which no face was
    found has an orange border.
    """
    from matplotlib.figure import Figure

    shard_set = ShardSet.open(path)
    counts = shard_set.manifest["classes"]
    tiles = _examples(shard_set, per_class)
    labels = _classes(counts)
    columns = max([len(row) for row in tiles.values()], default=3)
    width, height = columns * (TILE_PX + GAP_PX) + LABEL_PX, max(1, len(labels)) * (TILE_PX + GAP_PX) + TITLE_PX
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    for i, label in enumerate(labels):
        bottom = height - TITLE_PX - (i + 1) * (TILE_PX + GAP_PX) + GAP_PX
        box = (LABEL_PX / width, bottom / height, columns * (TILE_PX + GAP_PX) / width, TILE_PX / height)
        axes = figure.add_axes(box)
        axes.imshow(_strip(tiles[label], columns))
        axes.set_axis_off()
        middle = (bottom + TILE_PX / 2) / height
        left = (LABEL_PX - 10) / width
        figure.text(left, middle, f"{label or 'unlabelled'}\n", ha="right", va="center", fontsize=12, weight="bold")
        clips = f"{counts[label]:,} clip{'s' if counts[label] != 1 else ''}"
        figure.text(left, middle, f"\n{clips}", ha="right", va="center", fontsize=10, color="0.35")
    figure.text(10 / width, 1 - TITLE_PX / 2 / height, _title(shard_set), va="center", fontsize=12)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    return out


def _title(shard_set: ShardSet) -> str:
    facts = shard_set.manifest
    return f"{shard_set.path.parent.name}: {facts['clips']:,} clips, {facts['rejects']:,} rejected"


def _classes(counts: dict[str, int]) -> list[str]:
    return [name for name in (*EMOTIONS, CONTEMPT, "") if name in counts]


def _examples(shard_set: ShardSet, per_class: int) -> dict[str, list[Tile]]:
    """Up to `per_class` tiles of each class, taken in turn from parts that lie spread over the set."""
    parts = shard_set.parts()
    chosen = [parts[i] for i in np.unique(np.linspace(0, len(parts) - 1, min(SCAN_PARTS, len(parts))).astype(int))]
    looked_for = shard_set.manifest["settings"]["faces"]["aligner"] != "none"
    found: dict[str, list[list[list[Tile]]]] = defaultdict(list)
    for part in chosen:
        of_part: dict[str, list[list[Tile]]] = defaultdict(list)
        for row in pq.read_table(part, columns=["label", "frames", "face_found"]).to_pylist():
            if len(of_part[row["label"]]) < per_class:
                faces = [face or not looked_for for face in row["face_found"]]
                of_part[row["label"]].append(list(zip(row["frames"], faces, strict=True)))
        for label, clips in of_part.items():
            found[label].append(clips)
    return {label: _spread(_in_turn(lists)[:per_class], per_class) for label, lists in found.items()}


def _in_turn(lists: list[list[Any]]) -> list[Any]:
    longest = max(map(len, lists))
    return [items[i] for i in range(longest) for items in lists if i < len(items)]


def _spread(clips: list[list[Tile]], count: int) -> list[Tile]:
    """The middle frame of each clip, or as many evenly spaced ones of each as fit."""
    each = max(1, count // len(clips))
    positions = [np.unique(((np.arange(each) + 0.5) * len(clip) / each).astype(int)) for clip in clips]
    return [clip[i] for clip, chosen in zip(clips, positions, strict=True) for i in chosen]


def _strip(tiles: list[Tile], columns: int) -> np.ndarray:
    strip = np.full((TILE_PX, columns * (TILE_PX + GAP_PX), 3), 255, np.uint8)
    for i, (data, found) in enumerate(tiles):
        picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        tile = cv2.resize(picture, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
        if not found:
            cv2.rectangle(tile, (0, 0), (TILE_PX - 1, TILE_PX - 1), NO_FACE_RGB, 5)
        left = i * (TILE_PX + GAP_PX)
        strip[:, left : left + TILE_PX] = tile
    return strip


def summary(path: Path) -> str:
    """Plain text: clips, share of frames with a face, counts per split and class, rejects by kind with an example."""
    shard_set = ShardSet.open(path)
    facts = shard_set.manifest
    lines = [f"{facts['clips']:,} clips, {facts['rejects']:,} rejects; {_faces(facts)}"]
    lines += _count_table(facts)
    examples = {row["kind"]: row["message"] for row in shard_set.rejects().to_pylist()}
    for kind, count in Counter(facts["reject_kinds"]).most_common():
        lines.append(f"  rejected {count:,} {kind}: e.g. {examples[kind]}")
    return "\n".join(lines)


def _faces(facts: dict[str, Any]) -> str:
    if facts["settings"]["faces"]["aligner"] == "none":
        return "faces were not looked for (aligner none)"
    return f"a face in {facts['frames_with_face'] / max(1, facts['frames']):.1%} of {facts['frames']:,} frames"


def _count_table(facts: dict[str, Any]) -> list[str]:
    labels = _classes(facts["classes"])
    if not labels:
        return []
    rows = {"all": facts["classes"], **facts["splits"]}
    first = max(map(len, rows)) + 2
    header = "".join(f"{label or 'unlabelled':>11}" for label in labels)
    lines = [f"  {'':{first}}{header}{'sum':>9}"]
    for name, counts in rows.items():
        cells = "".join(f"{counts.get(label, 0):>11,}" for label in labels)
        lines.append(f"  {name:{first}}{cells}{sum(counts.values()):>9,}")
    return lines
