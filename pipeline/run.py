"""The folder of one logical run: bound to one recipe, holding its result when it is finished."""

import json
import time
from pathlib import Path
from typing import Any

import yaml

from pipeline.checkpoint import RECIPE, recipe_yaml
from pipeline.config import Recipe
from preprocessing.config import ConfigError

RESULT = "result.json"
HISTORY = "history.jsonl"
FREE_TO_CHANGE = {
    "preprocess.actors",
    "run.keep_checkpoints",
    "run.max_failures",
    "run.tracking_uri",
}
"""Settings that may differ when a run is continued: they change no number."""


def run_folder(recipe: Recipe) -> Path:
    """Absolute folder of the recipe's run."""
    return Path(recipe.run.dir).absolute() / recipe.run.name


def finished_result(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Result of a run that is finished, None when there is something left to do.

    Raises:
        ConfigError: the folder belongs to a run of another recipe; lists what differs.
    """
    stored = folder / RECIPE
    if not stored.exists():
        return None
    before, after = (flatten(yaml.safe_load(text)) for text in (stored.read_text("utf-8"), recipe_yaml(recipe)))
    keys = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k) and k not in FREE_TO_CHANGE)
    if keys:
        faults = [f"{k} was {before.get(k)!r}, is {after.get(k)!r}" for k in keys]
        fix = "a run continues only with its own recipe: choose another run.name, or restore the values"
        raise ConfigError(str(folder), [*faults, fix])
    return read_result(folder) if (folder / RESULT).exists() else None


def bind(folder: Path, recipe: Recipe) -> None:
    """Bind the folder to the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECIPE).write_text(recipe_yaml(recipe), encoding="utf-8")


def write_result(folder: Path, result: dict[str, Any]) -> Path:
    """Write result.json into a folder in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    path, fresh = folder / RESULT, folder / f"{RESULT}.tmp"
    fresh.write_text(json.dumps({**result, "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}, indent=1))
    fresh.replace(path)
    return path


def read_result(folder: Path) -> dict[str, Any]:
    """Content of the folder's result.json."""
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))


def append_history(folder: Path, facts: dict[str, Any]) -> None:
    """Add one epoch's facts; an epoch that is repeated after a restart replaces its first account when read."""
    with (folder / HISTORY).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(facts) + "\n")


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Facts of each epoch, in order; Ray itself keeps only those of the checkpoints that it kept."""
    lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines()
    epochs = {facts["epoch"]: facts for facts in map(json.loads, lines)}
    return [epochs[epoch] for epoch in sorted(epochs)]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of a tree of settings by dotted path; an empty mapping is a leaf."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return leaves
