"""Files that are there whole or not at all: temporary name, fsync, rename, fsync of the folder."""

import errno
import fcntl
import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

logger = logging.getLogger(__name__)

COMPRESSION = "zstd"
_TEMPORARY = ".tmp"


class BusyError(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    The temporary name starts with a dot: readers of the folder do not see it.
    """
    _make_folder(path.parent)
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{_TEMPORARY}")
    try:
        yield fresh
        _sync(fresh)
        fresh.replace(path)
        _sync(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


def write_table(path: Path, table: pa.Table, row_group_size: int) -> None:
    """Write a Parquet file in one step."""
    with staged(path) as fresh:
        pq.write_table(table, fresh, row_group_size=row_group_size, compression=COMPRESSION)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step."""
    with staged(path) as fresh:
        fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left behind; only while no writer is at work."""
    for path in folder.rglob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file lock; the system frees it when the process ends, however it ends.

    Raises:
        BusyError: another process holds it.
    """
    _make_folder(path.parent)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{path} is locked by another process") from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise
            logger.warning("%s: this file system has no locks; do not run two builds at once", path)
        yield


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents so that they outlive a power cut."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
