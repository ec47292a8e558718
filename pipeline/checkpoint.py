"""Checkpoints of a training run and the bundle that predicts: safetensors weights, nothing unpickled."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.config import Recipe
from preprocessing.config import validate

WEIGHTS, STATE, FACTS = "model.safetensors", "state.pt", "checkpoint.json"
RECIPE, BUNDLE = "recipe.yaml", "bundle.json"


class CheckpointError(ValueError):
    """A checkpoint or bundle is incomplete or does not fit; the message names the file and the fix."""


def save_checkpoint(folder: Path, model: nn.Module, state: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write weights, training state (tensors and plain values) and facts (JSON) into an empty folder."""
    save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, folder / WEIGHTS)
    torch.save(state, folder / STATE)
    (folder / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")


def load_checkpoint(folder: Path, model: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load weights into the model strictly; returns (training state, facts).

    Raises:
        CheckpointError: missing file or weights of another model.
    """
    load_weights(folder / WEIGHTS, model)
    return torch.load(folder / STATE, weights_only=True, map_location="cpu"), read_facts(folder)


def read_facts(folder: Path) -> dict[str, Any]:
    """Facts (epoch, scores) of a checkpoint."""
    try:
        return json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder / FACTS}: not a readable checkpoint ({error})") from error


def load_weights(path: Path, model: nn.Module) -> None:
    """Load a safetensors file strictly.

    Raises:
        CheckpointError: unreadable file, or names or shapes that differ (all listed).
    """
    try:
        weights = load_file(path)
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    own = model.state_dict()
    faults = [f"missing {k}" for k in own if k not in weights] + [f"surplus {k}" for k in weights if k not in own]
    faults += [
        f"{k}: {tuple(weights[k].shape)} in the file, {tuple(v.shape)} in the model"
        for k, v in own.items()
        if k in weights and weights[k].shape != v.shape
    ]
    if faults:
        more = f" and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise CheckpointError(f"{path} does not fit the model: {'; '.join(faults[:8])}{more}")
    model.load_state_dict(weights)


@dataclass(frozen=True)
class BundleFacts:
    """What a bundle says about itself beside its recipe."""

    classes: list[str]
    model: str
    weights_sha256: str
    shard_fingerprint: str
    epoch: int
    scores: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def write_bundle(folder: Path, weights: Path, recipe: Recipe, facts: BundleFacts) -> Path:
    """Write the bundle (weights, recipe, facts) that predicts on raw media; replaces an older one in one rename."""
    fresh = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    shutil.copyfile(weights, fresh / WEIGHTS)
    (fresh / RECIPE).write_text(recipe_yaml(recipe), encoding="utf-8")
    (fresh / BUNDLE).write_text(json.dumps(asdict(facts), indent=1), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    fresh.replace(folder)
    return folder


def read_bundle(folder: Path) -> tuple[Recipe, BundleFacts, Path]:
    """Recipe, facts and weights path of a bundle.

    Raises:
        CheckpointError: files missing, or weights that differ from the recorded hash.
    """
    missing = [name for name in (WEIGHTS, RECIPE, BUNDLE) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} is no bundle: it lacks {', '.join(missing)}; give a run folder or a run id")
    facts = BundleFacts(**json.loads((folder / BUNDLE).read_text(encoding="utf-8")))
    if file_sha256(folder / WEIGHTS) != facts.weights_sha256:
        raise CheckpointError(f"{folder / WEIGHTS}: its hash is not the one in {BUNDLE}: copy the bundle again")
    tree = yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8"))
    return validate(Recipe, tree, str(folder / RECIPE)), facts, folder / WEIGHTS


def recipe_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
