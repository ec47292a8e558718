"""DFEW: 16,372 film clips, seven emotions, five folds (layout of its README v1.0, and what users make of it)."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preprocessing.config import DatasetSettings
from preprocessing.datasets.tree import Entry, Tree
from preprocessing.labels import DFEW_CODES
from preprocessing.manifest import Manifest, ManifestError

FORMS = ("original", "clip_224x224", "clip_224x224_16f")
"""Published forms of a clip, in the order in which `media: auto` looks for them."""

PUBLISHED_CLIPS = 11697
PUBLISHED_FOLDS = {1: (9356, 2341), 2: (9356, 2341), 3: (9357, 2340), 4: (9358, 2339), 5: (9361, 2336)}
"""Clips of train and test in each fold, as counted in the published lists."""
_SUBSET_CLIPS = 1000

_ID = re.compile(r"0*(\d{1,9})")
_NAME = re.compile(r"0*(\d{1,9})(?:\.[A-Za-z]\w*)?")  # in a list: 1, 00001, 1.mp4
_SET_FILE = re.compile(r"set_(\d+)\.csv", re.IGNORECASE)
_PART = re.compile(r"(train|test)\b", re.IGNORECASE)


def read(settings: DatasetSettings) -> Manifest:
    """Sample table of a DFEW tree: the clips that the set_k.csv files label, with the folds as splits.

    The parts are found by what they hold, so nested and renamed parent folders do not matter. An optional
    `subjects.csv` (video_name,subject) in the root fills the subject column; DFEW itself has none.

    Raises:
        ManifestError: every malformed row, contradiction and missing part at once.
    """
    tree = Tree.at(settings.root)
    parts = _Parts.find(tree)
    lists = _read_lists(tree, parts)
    subjects = _read_subjects(tree)
    form = _pick_form(tree, parts, settings.media)
    if tree.faults:
        raise ManifestError(settings.root, list(dict.fromkeys(tree.faults)))
    clips = parts.clips[form]
    name = settings.name or "dfew"
    rows = [
        {
            "sample_id": f"{name}/{number:05d}",
            "dataset": name,
            **_media(tree, form, clips.get(number), number),
            "label": DFEW_CODES[lists.labels[number]],
            "dataset_label": str(lists.labels[number]),
            "splits": lists.splits(number),
            "subject": subjects.get(number),
        }
        for number in sorted(lists.labels)[: settings.limit]
    ]
    warnings = [*_compare_counts(lists), *_unlabelled(clips, lists), *_shared_subjects(lists, subjects)]
    return Manifest.from_rows(settings.root, rows, warnings=warnings, faults=tree.faults)


@dataclass
class _Parts:
    """Where the parts of the data set lie."""

    clips: dict[str, dict[int, str]] = field(default_factory=dict)
    """Form -> clip id -> path of its file or frame folder."""
    lists: dict[tuple[int, str], str] = field(default_factory=dict)
    """(fold, train or test) -> path of set_k.csv."""

    @classmethod
    def find(cls, tree: Tree) -> "_Parts":
        parts = cls()
        pending: list[Path] = [tree.root]
        while pending:
            folder = pending.pop()
            entries = tree.entries(folder)
            parts._add_clips(tree, folder, entries)
            if part := _PART.match(folder.name):
                parts._add_lists(tree, part[1].lower(), entries)
            pending += [Path(e.path) for e in reversed(entries) if e.is_dir and not _ID.fullmatch(e.name)]
        return parts

    def _add_clips(self, tree: Tree, folder: Path, entries: Sequence[Entry]) -> None:
        found = [(int(number), entry) for entry in entries if (number := _clip_number(entry)) is not None]
        form = _form(tree, folder, [entry for _, entry in found])
        if form is None:
            return
        clips = self.clips.setdefault(form, {})
        twice = [(clips[number], entry.path) for number, entry in found if number in clips]
        clips.update((number, entry.path) for number, entry in found)
        if twice or len({number for number, _ in found}) < len(found):
            first = " and ".join(twice[0]) if twice else "padded and unpadded names side by side"
            tree.faults.append(f"{folder}: holds clips of {form} that are there twice ({first}): remove one copy")

    def _add_lists(self, tree: Tree, part: str, entries: Sequence[Entry]) -> None:
        for entry in entries:
            match = _SET_FILE.fullmatch(entry.name)
            if not match:
                continue
            known = self.lists.setdefault((int(match[1]), part), entry.path)
            if Path(known).read_bytes() != Path(entry.path).read_bytes():
                tree.faults.append(f"{entry.path}: differs from {known}: remove one of the two")


@dataclass
class _Lists:
    """What the set_k.csv files say."""

    labels: dict[int, int] = field(default_factory=dict)
    parts: dict[int, dict[int, str]] = field(default_factory=dict)
    """Fold -> clip id -> train or test."""
    places: dict[int, str] = field(default_factory=dict)
    """Clip id -> where its label was read first."""

    def splits(self, number: int) -> list[str]:
        return [f"fold{fold}/{clips[number]}" for fold, clips in sorted(self.parts.items()) if number in clips]

    def add(self, number: int, label: int, fold: int, part: str, place: str) -> str | None:
        """Add one row; return what is wrong with it."""
        if label not in DFEW_CODES:
            return f"label {label} is out of range: 1..{len(DFEW_CODES)}"
        if self.labels.setdefault(number, label) != label:
            return f"clip {number} has label {label} here and {self.labels[number]} in {self.places[number]}"
        self.places.setdefault(number, place)
        clips = self.parts.setdefault(fold, {})
        if number in clips:
            return f"clip {number} is {'listed twice' if clips[number] == part else 'in train and test'} in fold {fold}"
        clips[number] = part
        return None


def _read_lists(tree: Tree, parts: _Parts) -> _Lists:
    lists = _Lists()
    for (fold, part), path in sorted(parts.lists.items(), key=lambda item: (item[0][0], item[0][1] != "train")):
        for place, (name, value) in _read_pairs(tree, path):
            number = _NAME.fullmatch(name)
            if not number or not re.fullmatch(r"-?\d+", value):
                tree.faults.append(f"{place}: {name},{value} is not `video_name,label` with two whole numbers")
            elif fault := lists.add(int(number[1]), int(value), fold, part, place):
                tree.faults.append(f"{place}: {fault}")
    for fold, part in sorted(parts.lists):
        other = "test" if part == "train" else "train"
        if (fold, other) not in parts.lists:
            tree.faults.append(f"{parts.lists[fold, part]}: fold {fold} has no {other} list")
    if not parts.lists:
        tree.faults.append("no set_k.csv was found in a folder named train... or test... (EmoLabel_DataSplit)")
    return lists


def _read_subjects(tree: Tree) -> dict[int, str]:
    path = tree.root / "subjects.csv"
    subjects: dict[int, str] = {}
    for place, (name, subject) in _read_pairs(tree, str(path)) if path.is_file() else ():
        number = _NAME.fullmatch(name)
        if not number or not subject:
            tree.faults.append(f"{place}: {name},{subject} is not `video_name,subject`")
        elif subjects.setdefault(int(number[1]), subject) != subject:
            tree.faults.append(f"{place}: clip {number[1]} has two subjects: {subjects[int(number[1])]}, {subject}")
    return subjects


def _read_pairs(tree: Tree, path: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """(path:line, two fields) of each row, without header and empty lines."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        tree.faults.append(f"{path}: cannot be read ({error})")
        return
    for line, row in enumerate(text.splitlines(), start=1):
        fields = [part.strip().strip('"') for part in re.split(r"[,;\t]", row.strip())]
        header = line == 1 and not any(character.isdigit() for character in fields[0])
        if fields == [""] or header:
            continue
        if len(fields) != 2:
            tree.faults.append(f"{path}:{line}: {row.strip()!r} has {len(fields)} fields, needs 2")
            continue
        yield f"{path}:{line}", (fields[0], fields[1])


def _clip_number(entry: Entry) -> str | None:
    name = entry.name if entry.is_dir else Path(entry.name).stem
    match = _ID.fullmatch(name) if entry.is_dir or entry.media == "video" else None
    return match[1] if match else None


def _form(tree: Tree, folder: Path, clips: Sequence[Entry]) -> str | None:
    """Which published form a folder of numbered clips holds; null when it holds none that is read here."""
    if not clips:
        return None
    if not clips[0].is_dir:
        return None if "224" in folder.name else "original"  # clip_224x224_avi is another crop of the faces
    if "16f" in folder.name:
        return "clip_224x224_16f"
    frames = next((files for clip in clips if Path((files := tree.frames(clip.path))[0]).is_file()), None)
    if frames is None:
        return "clip_224x224" if "224" in folder.name else None
    plain = all(Path(file).stem.isdigit() for file in frames)
    return "clip_224x224_16f" if plain and len(frames) <= 16 else "clip_224x224"


def _pick_form(tree: Tree, parts: _Parts, media: str) -> str:
    wanted = FORMS if media == "auto" else (media,)
    form = next((form for form in wanted if form in parts.clips), None)
    if form is None:
        there = ", ".join(parts.clips) or "none"
        tree.faults.append(f"no clips of form {' or '.join(wanted)} were found (found: {there}): see dataset.media")
    return form or ""


def _media(tree: Tree, form: str, path: str | None, number: int) -> dict[str, Any]:
    if form == "original":
        return {"media": "video", "uris": [path or str(tree.root / form / f"{number}.mp4")]}
    return {"media": "frames", "uris": tree.frames(path or tree.root / form / f"{number:05d}")}


def _compare_counts(lists: _Lists) -> list[str]:
    count = len(lists.labels)
    if count <= _SUBSET_CLIPS:
        return [f"{count} labelled clips in {len(lists.parts)} folds: a subset, DFEW has {PUBLISHED_CLIPS} in 5"]
    warnings = []
    if count != PUBLISHED_CLIPS:
        warnings.append(f"{count} labelled clips; DFEW as published has {PUBLISHED_CLIPS}")
    for fold, published in PUBLISHED_FOLDS.items():
        parts = Counter(lists.parts.get(fold, {}).values())
        counted = (parts["train"], parts["test"])
        if counted != published:
            warnings.append(f"fold {fold} has {counted[0]} train and {counted[1]} test clips; published: {published}")
    return warnings


def _unlabelled(clips: dict[int, str], lists: _Lists) -> list[str]:
    others = len(clips.keys() - lists.labels.keys())
    return [f"{others} clips on disk are in no set_k.csv (no single label): left out"] if others else []


def _shared_subjects(lists: _Lists, subjects: dict[int, str]) -> list[str]:
    warnings = []
    for fold, clips in sorted(lists.parts.items()):
        sides = [
            {subjects[n] for n, part in clips.items() if part == side and n in subjects} for side in ("train", "test")
        ]
        if shared := sides[0] & sides[1]:
            warnings.append(f"fold {fold}: {len(shared)} subjects are in train and test (first: {min(shared)})")
    return warnings
