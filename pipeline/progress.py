"""Live progress of a training run: the worker writes a small file, the driver draws a bar from it."""

import json
import threading
import time
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

FILE = "progress.json"
INTERVAL_S = 0.5


class Progress:
    """Written by rank 0: steps done, last epoch's scores."""

    def __init__(self, folder: Path, epochs: int, steps: int) -> None:
        self.path, self.facts = folder / FILE, {"done": 0, "total": epochs * steps, "text": "first batch"}
        self._written_at = 0.0
        self._write()

    def step(self, done: int) -> None:
        """An optimizer step is done; `done` counts from the start of the run."""
        self.facts["done"] = done
        if time.monotonic() - self._written_at > INTERVAL_S:
            self._write()

    def epoch(self, epoch: int, facts: dict[str, Any]) -> None:
        """An epoch is done."""
        self.facts["text"] = (
            f"epoch {epoch + 1}: loss {facts['train_loss']:.3f}, "
            f"train UAR {facts['train_uar']:.2f}, val UAR {facts['val_uar']:.2f}"
        )
        self._write()

    def _write(self) -> None:
        fresh = self.path.with_suffix(".tmp")
        fresh.write_text(json.dumps(self.facts), encoding="utf-8")
        fresh.replace(self.path)
        self._written_at = time.monotonic()


def columns() -> tuple[Any, ...]:
    """Columns of every bar of this project."""
    return (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )


class ProgressBar:
    """Driver side: a context manager that follows the file in a thread."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path, self.name = folder / FILE, name
        self.path.unlink(missing_ok=True)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "ProgressBar":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        with Bar(*columns()) as bar:
            task = bar.add_task(self.name, total=None, text="starting workers")
            stopping = False
            while not stopping:
                stopping = self._stop.wait(INTERVAL_S)
                if self.path.exists():
                    facts = json.loads(self.path.read_text(encoding="utf-8"))
                    bar.update(task, completed=facts["done"], total=facts["total"], text=facts["text"])
