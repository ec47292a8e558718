"""Who trains, who validates, who tests: the assignment of clips to the parts of a split."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.config import DataSettings
from preprocessing.labels import CONTEMPT, EMOTIONS


class SplitError(ValueError):
    """The shard set does not hold what the split settings ask for."""


@dataclass(frozen=True)
class Split:
    """Sample ids of each part (sorted, disjoint), the classes in canonical order, and warnings."""

    train: list[str]
    val: list[str]
    test: list[str]
    classes: list[str]
    train_counts: list[int]
    warnings: list[str]

    def part(self, name: str) -> list[str]:
        """Ids of `train`, `val` or `test`."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


def assign(index: pa.Table, settings: DataSettings, seed: int) -> Split:
    """Assign clips to train, val and test.

    Published parts are taken as they are. A missing val (or test) part is cut from train: whole subjects where
    every train clip has one, else the same share of each class; the cut depends on the seed and the ids alone.

    Args:
        index: columns sample_id, label, subject, splits.

    Raises:
        SplitError: unknown split, empty part, or fewer than two classes; names what is there.
    """
    rows = {row["sample_id"]: row for row in index.to_pylist()}
    parts = {name: _members(rows, f"{settings.split}/{name}") for name in ("train", "val", "test")}
    if not parts["train"]:
        known = sorted({s.split("/")[0] for row in rows.values() for s in row["splits"]})
        raise SplitError(
            f"data.split = {settings.split!r}: no clip of the shard set is marked {settings.split}/train; "
            f"splits there: {', '.join(known) or 'none'}"
        )
    if not parts["test"] and settings.test_share:
        parts["test"] = _cut(rows, parts["train"], settings.test_share, seed + 1)
        parts["train"] = sorted(set(parts["train"]) - set(parts["test"]))
    if not parts["val"] and settings.val_share:
        parts["val"] = _cut(rows, parts["train"], settings.val_share, seed)
        parts["train"] = sorted(set(parts["train"]) - set(parts["val"]))
    counts = Counter(rows[i]["label"] for i in parts["train"])
    classes = [name for name in (*EMOTIONS, CONTEMPT) if counts[name]]
    if len(classes) < 2:
        raise SplitError(f"data.split = {settings.split!r}: train holds {len(classes)} class, at least 2 needed")
    return Split(
        **parts,
        classes=classes,
        train_counts=[counts[name] for name in classes],
        warnings=_warnings(rows, parts, classes),
    )


def _members(rows: dict[str, dict], mark: str) -> list[str]:
    return sorted(i for i, row in rows.items() if mark in row["splits"])


def _cut(rows: dict[str, dict], ids: Sequence[str], share: float, seed: int) -> list[str]:
    subjects = {rows[i]["subject"] for i in ids}
    if None not in subjects and len(subjects) > 2:
        order = np.random.default_rng(seed).permutation(sorted(subjects))
        chosen = set(order[: max(1, round(share * len(order)))])
        return sorted(i for i in ids if rows[i]["subject"] in chosen)
    chosen_ids: list[str] = []
    for label in sorted({rows[i]["label"] for i in ids}):
        members = sorted(i for i in ids if rows[i]["label"] == label)
        order = np.random.default_rng(seed).permutation(len(members))
        take = min(max(1, round(share * len(members))), len(members) - 1)
        chosen_ids += [members[k] for k in order[:take]]
    return sorted(chosen_ids)


def _warnings(rows: dict[str, dict], parts: dict[str, list[str]], classes: list[str]) -> list[str]:
    found = []
    for a, b in (("train", "test"), ("train", "val"), ("val", "test")):
        shared = set(parts[a]) & set(parts[b])
        if shared:
            raise SplitError(f"{len(shared)} clips are in both {a} and {b}, e.g. {min(shared)}")
        subjects = {rows[i]["subject"] for i in parts[a]} & {rows[i]["subject"] for i in parts[b]} - {None}
        if subjects:
            found.append(f"{len(subjects)} subjects are in both {a} and {b}, e.g. {min(subjects)}")
    for name in ("val", "test"):
        strange = sorted({rows[i]["label"] for i in parts[name]} - set(classes))
        if strange:
            raise SplitError(f"{name} holds classes that train lacks: {', '.join(strange)}")
        absent = [c for c in classes if c not in {rows[i]["label"] for i in parts[name]}]
        if absent and parts[name]:
            found.append(f"{name} has no clip of: {', '.join(absent)}")
    return found
