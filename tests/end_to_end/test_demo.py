"""The whole pipeline on rendered data, small: every stage through its own command, then killed and continued."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from commands import ROOT, SMALL, command, environment, run
from safetensors.torch import load_file

from preprocessing.datasets.demo import render


class World:
    """A data set, its shards and the settings that lead to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary = render(folder / "DFEW", seed=1, subjects=5)
        self.settings = [
            *SMALL,
            f"preprocess.dataset.root={folder / 'DFEW'}",
            f"preprocess.out={folder / 'shards'}",
            f"run.dir={folder / 'runs'}",
        ]

    def train(self, model: str, name: str, *more: str) -> dict:
        run("train", f"jobs/recipes/demo_{model}.yaml", *self.settings, f"run.name={name}", *more)
        return json.loads((self.folder / "runs" / name / "result.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    said = run("preprocess", "jobs/recipes/demo_hdf.yaml", *made.settings)
    assert "35 clips, 4 rejects" in said
    return made


def test_every_sample_is_one_row_and_a_second_run_does_nothing(world: World) -> None:
    (shards,) = (world.folder / "shards" / "demo").iterdir()
    clips = pq.read_table(shards / "parts", columns=["sample_id"])["sample_id"].to_pylist()
    rejects = pq.read_table(shards / "rejects", columns=["sample_id", "kind"]).to_pylist()
    assert sorted(clips + [r["sample_id"] for r in rejects]) == [f"demo/{n:05d}" for n in range(1, 40)]
    assert sorted(r["kind"] for r in rejects) == ["empty", "no_face", "not_media", "truncated"]
    assert (shards / "contact_sheet.png").stat().st_size > 20_000
    before = {p: p.stat().st_mtime_ns for p in shards.rglob("*.parquet")}
    assert "nothing to do" in run("preprocess", "jobs/recipes/demo_hdf.yaml", *world.settings)
    assert {p: p.stat().st_mtime_ns for p in shards.rglob("*.parquet")} == before


def test_training_with_two_workers_is_evaluated_exactly_and_tracked(world: World) -> None:
    result = world.train("hdf", "two-workers", "run.workers=2", "data.batch_size=4")
    assert result["scores"]["samples"] == result["clips"]["test"] == 7
    assert sum(map(sum, result["scores"]["confusion"])) == 7
    predictions = pd.read_parquet(world.folder / "runs" / "two-workers" / "predictions_test.parquet")
    assert predictions["sample_id"].is_unique
    history = [
        json.loads(line) for line in (world.folder / "runs" / "two-workers" / "history.jsonl").read_text().splitlines()
    ]
    assert [facts["epoch"] for facts in history] == [0, 1]
    tracked = tracked_run(world, result["mlflow_run_id"])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.metrics["test/uar"] == pytest.approx(result["uar"])
    assert tracked.data.params["model.name"] == "hdf"


def test_evaluate_and_predict_agree_with_training(world: World) -> None:
    result = world.train("hkafer", "hkafer")
    folder = world.folder / "runs" / "hkafer"
    run("evaluate", f"run={folder}", "workers=2", f"out={world.folder / 'evaluated'}")
    again = json.loads((world.folder / "evaluated" / "result.json").read_text(encoding="utf-8"))
    assert again["scores"] == result["scores"]
    assert again["same_shards_as_training"]
    rows_at = world.folder / "rows.json"
    said = run("predict", f"run={folder}", f"input={world.folder / 'DFEW' / 'Clip'}", f"out={rows_at}")
    rows = json.loads(rows_at.read_text(encoding="utf-8"))
    assert len(rows) == world.summary.clips
    assert "35 of 39 predicted" in said
    assert sum(row["error"] is not None for row in rows) == 4
    tested = pd.read_parquet(folder / "predictions_test.parquet").set_index("sample_id")
    by_number = {int(Path(row["uri"]).stem): row for row in rows}
    for sample_id, row in tested.iterrows():
        raw = by_number[int(sample_id.split("/")[1])]
        assert raw["emotion"] == row["predicted"]
        assert raw["p_happy"] == pytest.approx(row["p_happy"], abs=1e-3)
    by_id = run("predict", f"run={result['mlflow_run_id']}", f"input={rows[0]['uri']}", f"tracking_uri={store(world)}")
    assert "predicted" in by_id


def test_a_killed_run_continues_to_the_same_weights(world: World) -> None:
    settings = ["optim.epochs=4", "optim.sam_rho=0"]
    straight = world.train("hdf", "straight", *settings)
    arguments = ["jobs/recipes/demo_hdf.yaml", *world.settings, "run.name=killed", *settings]
    folder = world.folder / "runs" / "killed"
    victim = subprocess.Popen(
        command("train", *arguments), cwd=ROOT, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: len(list((folder / "checkpoints").glob("epoch-*/checkpoint.json"))) >= 1)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    first_id = json.loads((folder / "tracking.json").read_text(encoding="utf-8"))["run_id"]
    killed = world.train("hdf", "killed", *settings)
    assert killed["mlflow_run_id"] == first_id
    assert killed["scores"] == straight["scores"]
    one, two = (load_file(world.folder / "runs" / n / "bundle" / "model.safetensors") for n in ("straight", "killed"))
    assert all(one[name].equal(two[name]) for name in one)
    refused = run("train", *arguments, "optim.lr=0.5", code=2)
    assert "optim.lr was 0.01, is 0.5" in refused


def test_wrong_input_ends_with_code_2_and_the_fix(world: World) -> None:
    said = run("train", "jobs/recipes/demo_hdf.yaml", "optim.lrr=1", "model.depths=[1]", code=2)
    assert "optim.lrr = 1: unknown key; did you mean 'lr'?" in said
    assert "must name the same stages" in said
    said = run("train", "jobs/recipes/demo_hdf.yaml", *world.settings, "preprocess.faces.crop_px=48", code=2)
    assert "run python -m jobs.preprocess" in said
    assert "neither a run folder" in run(
        "predict", "run=nowhere", "input=x.mp4", f"tracking_uri={store(world)}", code=2
    )


def store(world: World) -> str:
    return f"sqlite:///{world.folder / 'runs' / 'mlflow.db'}"


def tracked_run(world: World, run_id: str):
    from mlflow import MlflowClient

    return MlflowClient(store(world)).get_run(run_id)


def wait_for(condition, timeout_s: float = 240.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
