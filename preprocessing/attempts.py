"""Which sample a part was at, on disk: finds the one that kills its worker again and again."""

import json
from pathlib import Path
from typing import Any

from preprocessing.storage import write_json

FOLDER = "attempts"
MAX_LOSSES = 3
"""A sample at which so many workers were lost is not tried again."""


class Attempts:
    """The record of one part; it outlives the worker. Made at the start of each attempt, cleared at its end.

    A worker dies with its machine, for lack of memory, or from a crash of native code. Ray starts the part again,
    without end: this record ends it where the sample is the cause.
    """

    def __init__(self, folder: Path, part: int) -> None:
        self._path = folder / FOLDER / f"part-{part:05d}.json"
        record = self._read()
        self._losses: dict[str, int] = record.get("losses", {})
        if (lost := record.get("at")) is not None:
            self._losses[lost] = self._losses.get(lost, 0) + 1

    def enter(self, sample_id: str) -> bool:
        """Note that the worker starts on a sample; false when it must not, after MAX_LOSSES lost workers."""
        if self._losses.get(sample_id, 0) >= MAX_LOSSES:
            return False
        write_json(self._path, {"at": sample_id, "losses": self._losses})
        return True

    def clear(self) -> None:
        """Forget the part: it is committed."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        return json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
