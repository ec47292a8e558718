"""The registered model, loaded by MLflow alone, predicts on raw files."""

import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import save_file

from pipeline.checkpoint import BundleFacts, file_sha256, write_bundle
from pipeline.config import Recipe
from pipeline.models.registry import build_model
from pipeline.outbox import UNSENT_CALLS
from pipeline.tracking import RunLogger, open_run, tracking_uri
from pipeline.tracking_store import MODEL_REQUIREMENTS
from preprocessing.config import validate

CLASSES = ["happy", "sad", "neutral"]


def tiny_recipe(folder: Path) -> Recipe:
    return validate(
        Recipe,
        {
            "preprocess": {"dataset": {"root": "data"}, "sampling": {"frames": 2}, "faces": {"aligner": "none"}},
            "model": {"name": "hdf", "depths": [1, 1], "widths": [8, 8]},
            "data": {"frames": 2, "image_px": 32},
            "run": {"dir": str(folder / "runs")},
        },
    )


def tiny_bundle(folder: Path, recipe: Recipe) -> Path:
    model = build_model(recipe.model, classes=len(CLASSES), frames=2, image_px=32)
    weights = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights)
    facts = BundleFacts(
        classes=CLASSES, model="hdf", weights_sha256=file_sha256(weights), shard_fingerprint="none", epoch=0
    )
    return write_bundle(folder / "bundle", weights, recipe, facts)


def test_a_registered_model_predicts_files_and_reports_bad_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    recipe, folder = tiny_recipe(tmp_path), tmp_path / "runs/run"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(None, recipe.run.dir))
    with RunLogger(open_run(recipe, folder), recipe, folder) as run:
        run.log_model(tiny_bundle(tmp_path, recipe), "tiny")
    assert not (folder / UNSENT_CALLS).exists()
    Image.new("RGB", (48, 40), (200, 150, 120)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    path = list(sys.path)
    model = mlflow.pyfunc.load_model("models:/tiny/1")
    monkeypatch.setattr(sys, "path", path)
    rows = model.predict(pd.DataFrame({"uri": [str(tmp_path / "good.png"), str(tmp_path / "bad.png")]}))
    good, bad = rows.to_dict("records")
    assert good["emotion"] in CLASSES
    assert sum(good[f"p_{name}"] for name in CLASSES) == pytest.approx(1.0, abs=1e-5)
    assert pd.isna(good["error"])
    assert pd.isna(bad["emotion"])
    assert "bad.png" in bad["uri"]
    assert bad["error"]


def test_a_model_asks_only_for_packages_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    declared = {name.split(">")[0].split("[")[0].strip() for name in project["dependencies"]}
    assert set(MODEL_REQUIREMENTS) <= declared
