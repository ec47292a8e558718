"""What waits to be sent to the tracking server; it survives an outage and the death of the process.

Points are sent in batches. What cannot be sent goes to a file of the run folder at once and is sent later, by
this process or by the next one. A run has one writer at a time: the driver, or rank 0 while training runs.
"""

import json
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

UNSENT_METRICS, UNSENT_CALLS = "unsent_metrics.jsonl", "unsent_calls.json"
SEND_EVERY_S, SEND_EVERY_POINTS = 10.0, 500
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0


@dataclass(frozen=True)
class Point:
    """One value of one metric. Its time is fixed here, so that sending it twice stays recognisable."""

    key: str
    value: float
    step: int
    timestamp_ms: int

    @property
    def place(self) -> tuple[str, int]:
        """Where it stands in the record: one value per key and step."""
        return self.key, self.step


Send = Callable[[Sequence[Point]], None]
Recorded = Callable[[Collection[str]], set[tuple[str, int]]]


class Outbox:
    """Buffer of points that are sent at most once per key and step: the first value stands.

    Args:
        folder: run folder.
        send: sends points, or raises whatever its server raises.
        recorded: (key, step) of the given keys that the server has already; asked once per key, so that an
            epoch that is repeated after a restart does not appear twice.
    """

    def __init__(self, folder: Path, send: Send, recorded: Recorded) -> None:
        self.failure: str | None = None
        self._file = folder / UNSENT_METRICS
        self._send, self._ask = send, recorded
        self._points: list[Point] = []
        self._places: set[tuple[str, int]] = set()
        self._keys_asked: set[str] = set()
        self._sent_at = time.monotonic()
        self._pause_s = FIRST_PAUSE_S

    def add(self, points: Sequence[Point]) -> None:
        """Take points; they are sent at once when enough of them, or old enough ones, wait."""
        self._points += points
        if len(self._points) >= SEND_EVERY_POINTS or time.monotonic() - self._sent_at >= SEND_EVERY_S:
            self.flush()

    def flush(self, *, now: bool = False) -> bool:
        """Send all that waits, also what earlier processes left; True when nothing waits any more.

        After a failure it only tries again when a growing pause (1 to 60 s) is over, or `now`: an outage costs
        the training loop little. It never raises because of the server.
        """
        elapsed_s = time.monotonic() - self._sent_at
        if self.failure and not now and elapsed_s < self._pause_s:
            self._spill()
            return False
        waiting = self._unsent() + self._points
        self._sent_at = time.monotonic()
        try:
            self._deliver(waiting)
        except Exception as error:  # noqa: BLE001  each store raises its own classes; none may stop training
            self._note_failure(error)
            return False
        self._note_success(len(waiting))
        return True

    def _deliver(self, waiting: Sequence[Point]) -> None:
        if unknown := {point.key for point in waiting} - self._keys_asked:
            self._places |= self._ask(unknown)
            self._keys_asked |= unknown
        fresh = {point.place: point for point in reversed(waiting) if point.place not in self._places}
        if fresh:
            self._send(list(reversed(fresh.values())))
            self._places |= fresh.keys()
        self._points = []
        self._file.unlink(missing_ok=True)

    def _note_failure(self, error: Exception) -> None:
        if self.failure is None:
            self._pause_s = FIRST_PAUSE_S
            logger.warning("Tracking failed, the run goes on; metrics wait in %s (%s)", self._file, error)
        else:
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self.failure = str(error)
        self._sent_at = time.monotonic()  # a silent server took its time: the pause begins now
        self._spill()

    def _note_success(self, points: int) -> None:
        if self.failure is not None:
            logger.warning("Tracking works again: %d metric values that waited were sent", points)
        self.failure = None

    def _spill(self) -> None:
        if self._points:
            with self._file.open("a", encoding="utf-8") as stream:
                # The leading line break closes a line that a killed process left torn.
                stream.writelines("\n" + json.dumps(asdict(point)) for point in self._points)
                stream.write("\n")
            self._points = []

    def _unsent(self) -> list[Point]:
        text = self._file.read_text(encoding="utf-8") if self._file.exists() else ""
        points = []
        for line in filter(None, text.splitlines()):
            try:
                points.append(Point(**json.loads(line)))
            except (json.JSONDecodeError, TypeError):
                logger.warning("%s: a torn line was left out: %s", self._file, line)
        return points


def read_json(path: Path) -> Any:
    """Content of a JSON file, None when there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or delete it to begin anew") from error


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file in one step."""
    fresh = path.with_name(path.name + ".tmp")
    fresh.write_text(json.dumps(content, indent=1), encoding="utf-8")
    fresh.replace(path)
