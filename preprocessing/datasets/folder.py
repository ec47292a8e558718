"""Any labelled tree: <root>/<label>/<file>, <root>/<split>/<label>/<file>, or files named after an emotion."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preprocessing.config import DatasetSettings
from preprocessing.datasets.tree import Entry, Tree, media_of
from preprocessing.labels import UnknownLabelError, canonical, is_emotion
from preprocessing.manifest import SAMPLE_SCHEMA, Manifest

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
Sample = dict[str, Any]


def read(settings: DatasetSettings) -> Manifest:
    """Sample table of a tree whose folder names, or file names, are emotions.

    Below a label folder every video or picture is a sample; a folder that holds only pictures is one clip of
    frames. Splits are `all/train`, `all/val`, `all/test`; without split folders all samples are `all/train`.

    Raises:
        ManifestError: every folder or file whose label is not an emotion, and all faults of the tree.
    """
    tree = Tree.at(settings.root)
    reader = _Reader(tree, settings.name or "folder")
    rows = list(reader.labelled(_unwrap(tree)))
    warnings = []
    if reader.skipped:
        warnings.append(f"{len(reader.skipped)} files are neither video nor picture (first: {reader.skipped[0]})")
    return Manifest.from_rows(settings.root, rows, warnings=warnings, faults=tree.faults, limit=settings.limit)


def list_media(path: str, dataset: str = "input") -> list[Sample]:
    """Unlabelled samples (label "") of a file, or of all videos and pictures below a folder, as SAMPLE_SCHEMA rows.

    A single file is always listed, whatever its ending: decoding says whether it is media.

    Raises:
        ManifestError: the path does not exist, or the folder holds no media.
    """
    file = Path(path).expanduser()
    if file.is_file():
        row = _row(dataset, file.name, media_of(file.name) or "video", [str(file.resolve())])
        return Manifest.from_rows(path, [row]).table.to_pylist()
    tree = Tree.at(path)
    rows = [
        _row(dataset, tree.relative(entry.path), entry.media, [entry.path])
        for entry in tree.walk(tree.root)
        if entry.media
    ]
    return Manifest.from_rows(path, rows, faults=tree.faults).table.to_pylist()


class _Reader:
    def __init__(self, tree: Tree, dataset: str) -> None:
        self.tree = tree
        self.dataset = dataset
        self.skipped: list[str] = []

    def labelled(self, root: str | Path) -> Iterator[Sample]:
        entries = self.tree.entries(root)
        splits = [entry for entry in entries if entry.is_dir and entry.name.casefold() in _SPLITS]
        if not splits:
            yield from self._labels(entries, "all/train")
            return
        for entry in splits:
            yield from self._labels(self.tree.entries(entry.path), f"all/{_SPLITS[entry.name.casefold()]}")
        for entry in entries:
            if entry not in splits and self._holds_media(entry):
                self.tree.faults.append(
                    f"{entry.path}: holds media but is no split folder: move it into {splits[0].name}/<emotion>/"
                )

    def _labels(self, entries: list[Entry], split: str) -> Iterator[Sample]:
        for entry in entries:
            name = entry.name if entry.is_dir else Path(entry.name).stem
            if not (entry.is_dir and is_emotion(name)) and not self._holds_media(entry):
                self._skip(entry)
                continue
            try:
                label = canonical(name)
            except UnknownLabelError as error:
                self.tree.faults.append(f"{entry.path}: {error}")
                continue
            found = self._samples(entry.path) if entry.is_dir else [(entry.media, [entry.path], entry.path)]
            for media, uris, path in found:
                row = _row(self.dataset, self.tree.relative(path), media, uris)
                yield row | {"label": label, "dataset_label": name, "splits": [split]}

    def _samples(self, folder: str) -> Iterator[tuple[str, list[str], str]]:
        """(media, uris, path that names the sample) below a label folder."""
        for entry in self.tree.entries(folder):
            if entry.is_dir and self._is_clip(entry.path):
                yield "frames", self.tree.frames(entry.path), entry.path
            elif entry.is_dir:
                yield from self._samples(entry.path)
            elif entry.media:
                yield entry.media, [entry.path], entry.path
            else:
                self._skip(entry)

    def _is_clip(self, folder: str) -> bool:
        entries = self.tree.entries(folder)
        return not any(entry.is_dir or entry.media == "video" for entry in entries)

    def _holds_media(self, entry: Entry) -> bool:
        if not entry.is_dir:
            return entry.media is not None
        return any(file.media for file in self.tree.walk(entry.path))

    def _skip(self, entry: Entry) -> None:
        if not entry.is_dir:
            self.skipped.append(entry.path)


def _unwrap(tree: Tree) -> str | Path:
    """Step into folders that only wrap the data set, as archives leave them behind."""
    folder: str | Path = tree.root
    while True:
        entries = tree.entries(folder)
        names = [entry.name for entry in entries if entry.is_dir]
        wraps = len(names) == 1 and not any(entry.media for entry in entries)
        if not wraps or is_emotion(names[0]) or names[0].casefold() in _SPLITS:
            return folder
        folder = Path(folder) / names[0]


def _row(dataset: str, relative: str, media: str, uris: list[str]) -> Sample:
    row = dict.fromkeys(SAMPLE_SCHEMA.names)
    return row | {
        "sample_id": f"{dataset}/{relative}",
        "dataset": dataset,
        "media": media,
        "uris": uris,
        "label": "",
        "dataset_label": "",
        "splits": [],
    }
