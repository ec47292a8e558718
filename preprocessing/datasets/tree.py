"""Walking a data-set tree: what counts as media, what is junk, and the border that links may not cross."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from preprocessing.manifest import ManifestError
from preprocessing.sampling import frame_number

VIDEO_SUFFIXES = frozenset(
    [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".ogv", ".gif"],
)
IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"])
_JUNK = frozenset(("__macosx", "thumbs.db", "desktop.ini", "@eadir"))


def media_of(name: str) -> str | None:
    """`video` or `image` by the ending of a file name, in any case; null for other files."""
    suffix = os.path.splitext(name)[1].casefold()  # noqa: PTH122 - called for millions of names
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return "image" if suffix in IMAGE_SUFFIXES else None


@dataclass(frozen=True)
class Entry:
    """One file or folder of the tree."""

    name: str
    path: str
    is_dir: bool

    @property
    def media(self) -> str | None:
        """`video`, `image` or null; null for folders."""
        return None if self.is_dir else media_of(self.name)


@dataclass
class Tree:
    """The tree under a data-set root; `faults` collects what may not be read."""

    root: Path
    faults: list[str] = field(default_factory=list)

    @classmethod
    def at(cls, root: str) -> "Tree":
        """The tree at an existing folder.

        Raises:
            ManifestError: there is no such folder.
        """
        path = Path(root).expanduser()
        if not path.is_dir():
            state = "is not a folder" if path.exists() else "does not exist"
            raise ManifestError(root, [f"{state}: set dataset.root to the data set's folder"])
        return cls(path.resolve())

    def entries(self, folder: str | Path) -> list[Entry]:
        """Files and folders of a folder, by name; without junk, and without links that leave the root."""
        try:
            with os.scandir(folder) as scan:
                found = [self._entry(entry) for entry in scan if not _is_junk(entry.name)]
        except OSError as error:
            self.faults.append(f"{folder}: cannot be listed ({error.strerror})")
            return []
        return sorted((entry for entry in found if entry), key=lambda entry: entry.name)

    def frames(self, folder: str | Path) -> list[str]:
        """Picture files of a frame folder in time order: by number, for `10.jpg` comes after `2.jpg`.

        The folder itself when it holds none: decoding then rejects it as empty or missing.
        """
        pictures = [e for e in self.entries(folder) if e.media == "image"] if Path(folder).is_dir() else []
        numbered = sorted((frame_number(e.name) or 0, e.name, e.path) for e in pictures)
        return [path for _, _, path in numbered] or [str(folder)]

    def relative(self, path: str | Path) -> str:
        """Path below the root, with forward slashes."""
        return Path(path).relative_to(self.root).as_posix()

    def walk(self, folder: str | Path) -> Iterator[Entry]:
        """Every file below a folder, in order of their paths."""
        for entry in self.entries(folder):
            if entry.is_dir:
                yield from self.walk(entry.path)
            else:
                yield entry

    def _entry(self, entry: os.DirEntry[str]) -> Entry | None:
        if entry.is_symlink():
            target = Path(entry.path).resolve()
            if not target.is_relative_to(self.root):
                self.faults.append(f"{entry.path}: links to {target}, outside of {self.root}: copy or mount it inside")
                return None
            if Path(entry.path).parent.is_relative_to(target):
                self.faults.append(f"{entry.path}: links to a folder that holds it")
                return None
        return Entry(entry.name, entry.path, entry.is_dir())


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _JUNK
