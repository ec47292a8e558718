"""Checkpoints and bundles: round trip, clear refusals, nothing unpickled."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.checkpoint import (
    BundleFacts,
    CheckpointError,
    file_sha256,
    load_checkpoint,
    load_weights,
    read_bundle,
    save_checkpoint,
    write_bundle,
)
from pipeline.config import Recipe
from preprocessing.config import validate

RECIPE = validate(Recipe, {"preprocess": {"dataset": {"root": "clips"}}})


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path, model, {"optimizer": optimizer.state_dict(), "norm": 1.5}, {"epoch": 4})
    state, facts = load_checkpoint(tmp_path, other)
    assert facts == {"epoch": 4}
    assert state["norm"] == 1.5
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_weights_of_another_model_are_refused_with_every_difference(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, nn.Linear(3, 2), {}, {})
    with pytest.raises(CheckpointError, match=r"weight: \(2, 3\) in the file, \(5, 3\) in the model; bias"):
        load_weights(tmp_path / "model.safetensors", nn.Linear(3, 5))
    with pytest.raises(CheckpointError, match="surplus bias"):
        load_weights(tmp_path / "model.safetensors", nn.Linear(3, 2, bias=False))
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_weights(tmp_path / "model.safetensors", nn.Linear(3, 2))


def test_training_state_that_would_run_code_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, nn.Linear(3, 2), {}, {})
    torch.save({"call": Path.cwd}, tmp_path / "state.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        load_checkpoint(tmp_path, nn.Linear(3, 2))


def test_bundle_round_trip_and_tampering(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, nn.Linear(3, 2), {}, {})
    weights = tmp_path / "model.safetensors"
    facts = BundleFacts(["happy", "sad"], "hdf", file_sha256(weights), "abc", 3)
    bundle = write_bundle(tmp_path / "bundle", weights, RECIPE, facts)
    recipe, read, path = read_bundle(bundle)
    assert (recipe, read, path.parent) == (RECIPE, facts, bundle)
    write_bundle(tmp_path / "bundle", weights, RECIPE, facts)
    (bundle / "model.safetensors").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="its hash is not the one"):
        read_bundle(bundle)
    (bundle / "bundle.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks bundle\.json"):
        read_bundle(bundle)
    assert json.loads((write_bundle(bundle, weights, RECIPE, facts) / "bundle.json").read_text())["epoch"] == 3
