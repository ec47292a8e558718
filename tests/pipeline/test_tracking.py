"""Runs in a real sqlite store and on a real MLflow server that is killed and started again."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient

from pipeline.checkpoint import BUNDLE
from pipeline.config import Recipe
from pipeline.outbox import UNSENT_CALLS, UNSENT_METRICS
from pipeline.tracking import STATE, RunLogger, TrackingError, download_bundle, open_run, send_unsent, tracking_uri
from preprocessing.config import validate

START_LIMIT_S = 90
PATIENCE_S = 30
"""Ten times what is needed here, and a tenth of what MLflow takes by default."""


NORMAL_RUN = """
import sys
from pathlib import Path
from pipeline.config import Recipe
from pipeline.tracking import RunLogger, open_run
from preprocessing.config import validate

folder = Path(sys.argv[1])
recipe = validate(Recipe, {"preprocess": {"dataset": {"root": "data"}}, "run": {"dir": str(folder)}})
with RunLogger(open_run(recipe, folder / "run"), recipe, folder / "run") as log:
    log.log_metrics({"loss": 1.0}, step=0)
    log.log_model(sys.argv[2], "quiet")
    log.finish()
"""


class Server:
    """`mlflow server` on a free port of this machine; the same address and database after a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start without waiting: imports take it several seconds."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--serve-artifacts", "--artifacts-destination", str(self.folder / "artifacts")]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | quiet, cwd=self.folder, start_new_session=True
            )

    def wait(self) -> "Server":
        """Return when it answers."""
        limit = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError(f"server did not start:\n{(self.folder / 'server.log').read_text()}")

    def kill(self) -> None:
        """SIGKILL to the server and its worker processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs, to be copied: MLflow takes seconds to create its tables."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="module", autouse=True)
def starting_server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Server]:
    """Starts while the sqlite tests run."""
    server = Server(tmp_path_factory.mktemp("server"))
    shutil.copy(empty_database, server.folder / "server.db")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module", autouse=True)
def normal_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A whole run in a process of its own, with a store that it creates; it works beside the other tests."""
    folder = tmp_path_factory.mktemp("normal")
    command = [sys.executable, "-c", NORMAL_RUN, str(folder / "runs"), str(make_bundle(folder))]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def server(starting_server: Server) -> Server:
    return starting_server.wait()


@pytest.fixture
def runs(tmp_path: Path, empty_database: Path) -> Path:
    """Run directory with a store."""
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(empty_database, folder)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory, as a Ray worker does, without the user's MLflow settings."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def make_recipe(tmp_path: Path, uri: str | None = None, **run: Any) -> Recipe:
    tree = {"seed": 7, "preprocess": {"dataset": {"root": "data", "name": "tiny"}}}
    return validate(Recipe, tree | {"run": {"dir": str(tmp_path / "runs"), "tracking_uri": uri, **run}})


def client_of(recipe: Recipe) -> MlflowClient:
    return MlflowClient(tracking_uri(recipe.run.tracking_uri, recipe.run.dir))


def history(recipe: Recipe, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client_of(recipe).get_metric_history(run_id, key)]


def make_bundle(folder: Path) -> Path:
    bundle = folder / "bundle"
    bundle.mkdir(parents=True)
    (bundle / BUNDLE).write_text(json.dumps({"classes": ["happy", "sad"], "epoch": 3}))
    (bundle / "model.safetensors").write_bytes(os.urandom(4096))
    return bundle


def test_the_setting_comes_first_then_the_environment_then_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking_uri(None, tmp_path / "runs") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking_uri("sqlite:///own.db", "runs") == f"sqlite:///{Path.cwd()}/own.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000")
    assert tracking_uri(None, "runs") == "http://team:5000"
    assert tracking_uri("http://mine:5000", "runs") == "http://mine:5000"


def test_a_new_run_holds_settings_tags_and_recipe_and_leaves_the_directory_clean(runs: Path, elsewhere: Path) -> None:
    recipe = make_recipe(runs.parent, name="first")
    run_id = open_run(recipe, runs / "first", {"fingerprint": "abc123"})
    run = client_of(recipe).get_run(run_id)
    assert run.info.run_name == "first"
    assert run.data.params["optim.lr"] == "0.0005"
    assert run.data.params["model.depths"] == "[3, 5, 11, 7]"
    expected = {"seed": "7", "model": "hdf", "dataset": "tiny", "fingerprint": "abc123"}
    assert expected.items() <= run.data.tags.items()
    stored = list((runs / "mlartifacts").rglob("recipe.yaml"))
    assert len(stored) == 1
    assert "seed: 7" in stored[0].read_text()
    assert list(elsewhere.iterdir()) == []


def test_opening_again_continues_the_same_run(runs: Path) -> None:
    recipe, folder = make_recipe(runs.parent), runs / "run"
    run_id = open_run(recipe, folder)
    RunLogger(run_id, recipe, folder).finish("FAILED")
    assert client_of(recipe).get_run(run_id).info.status == "FAILED"
    assert open_run(recipe, folder) == run_id
    assert client_of(recipe).get_run(run_id).info.status == "RUNNING"


def test_a_kill_between_creating_and_noting_the_run_leaves_no_twin(runs: Path) -> None:
    recipe, folder = make_recipe(runs.parent), runs / "run"
    run_id = open_run(recipe, folder)
    state = json.loads((folder / STATE).read_text())
    del state["run_id"]
    (folder / STATE).write_text(json.dumps(state))
    assert open_run(recipe, folder) == run_id
    assert open_run(recipe, runs / "other") != run_id


def test_changed_and_very_long_settings_do_not_stop_a_continued_run(
    runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = runs / "run"
    open_run(make_recipe(runs.parent), folder)
    changed = make_recipe(runs.parent, max_failures=9)
    preprocess = changed.preprocess.model_copy(update={"out": "x" * 9000})
    run_id = open_run(changed.model_copy(update={"preprocess": preprocess}), folder)
    assert "run.max_failures: 3 -> 9" in caplog.text
    assert client_of(changed).get_run(run_id).data.params["run.max_failures"] == "3"


def test_an_epoch_repeated_after_a_restart_appears_once(runs: Path) -> None:
    recipe, folder = make_recipe(runs.parent), runs / "run"
    run_id = open_run(recipe, folder)
    with RunLogger(run_id, recipe, folder) as before:
        for epoch in range(3):
            before.log_metrics({"val/uar": epoch / 10}, step=epoch)
    with RunLogger(run_id, recipe, folder) as after:
        for epoch in range(2, 5):
            after.log_metrics({"val/uar": epoch / 10 + 0.001, "val/war": 0.5}, step=epoch)
    assert history(recipe, run_id, "val/uar") == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.301), (4, 0.401)]
    assert history(recipe, run_id, "val/war") == [(2, 0.5), (3, 0.5), (4, 0.5)]


def test_values_that_are_not_finite_are_left_out_with_a_warning(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe, folder = make_recipe(runs.parent), runs / "run"
    run_id = open_run(recipe, folder)
    with RunLogger(run_id, recipe, folder) as run:
        run.log_metrics({"loss": float("nan"), "lr": 0.1, "norm": float("inf")}, step=4)
    assert client_of(recipe).get_run(run_id).data.metrics == {"lr": 0.1}
    assert "Not finite at step 4, so not recorded: loss, norm" in caplog.text


def test_figures_and_folders_are_recorded(runs: Path) -> None:
    recipe, folder = make_recipe(runs.parent), runs / "run"
    run_id = open_run(recipe, folder)
    (folder / "tables").mkdir()
    (folder / "tables/a.csv").write_text("a\n")
    with RunLogger(run_id, recipe, folder) as run:
        run.log_figure(Figure(figsize=(1, 1)), "curves")
        run.log_figure(folder / "curves.png")
        run.log_artifacts(folder / "tables")
        with pytest.raises(FileNotFoundError, match=r"absent\.png"):
            run.log_figure(folder / "absent.png")
    client = client_of(recipe)
    assert [item.path for item in client.list_artifacts(run_id, "figures")] == ["figures/curves.png"]
    assert [item.path for item in client.list_artifacts(run_id, "tables")] == ["tables/a.csv"]


def test_a_model_is_registered_once_and_its_bundle_comes_back(runs: Path, elsewhere: Path) -> None:
    import mlflow

    recipe, folder = make_recipe(runs.parent), runs / "run"
    bundle = make_bundle(folder)
    run_id = open_run(recipe, folder)
    with RunLogger(run_id, recipe, folder) as run:
        run.log_metrics({"test/uar": 0.6}, step=3)
        started = time.monotonic()
        run.log_model(bundle, "hdf")
        assert time.monotonic() - started < PATIENCE_S
        run.log_model(bundle, "hdf")
    assert not (folder / UNSENT_CALLS).exists()
    assert [v.version for v in client_of(recipe).search_model_versions("name = 'hdf'")] in (["1"], [1])
    assert history(recipe, run_id, "test/uar") == [(3, 0.6)]
    client = client_of(recipe)
    recorded = client.get_run(run_id).outputs.model_outputs
    assert len(recorded) == 1
    model = client.get_logged_model(recorded[0].model_id)
    assert [(metric.key, metric.value) for metric in model.metrics] == [("test/uar", 0.6)]
    assert model.experiment_id == client.get_run(run_id).info.experiment_id
    for source in (run_id, "models:/hdf/1"):
        copy = download_bundle(source, run_dir=recipe.run.dir, into=runs / source.replace("/", "_"))
        assert (copy / "model.safetensors").read_bytes() == (bundle / "model.safetensors").read_bytes()
    assert "MLFLOW_TRACKING_URI" not in os.environ
    mlflow.set_tracking_uri(tracking_uri(None, recipe.run.dir))
    model = mlflow.pyfunc.load_model("models:/hdf/1")
    mlflow.set_tracking_uri(None)
    assert [column.name for column in model.metadata.get_input_schema()] == ["uri"]
    assert (Path(model.unwrap_python_model().bundle) / BUNDLE).is_file()
    assert list(elsewhere.iterdir()) == []


def test_a_run_folder_a_run_name_and_a_bundle_are_found_without_mlflow(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "runs/mine")
    assert download_bundle(str(bundle)) == bundle
    assert download_bundle(str(tmp_path / "runs/mine")) == bundle
    assert download_bundle("mine", run_dir=str(tmp_path / "runs")) == bundle


def test_an_unknown_run_is_named_with_the_places_searched(runs: Path) -> None:
    with pytest.raises(TrackingError, match=r"nonsense is neither a run folder .* nor a run with a model in MLflow"):
        download_bundle("nonsense", run_dir=str(runs))


@pytest.mark.parametrize(
    "uri", ["http://someone:secret@127.0.0.1:9", "sqlite:////proc/none/mlflow.db", "file:///tmp/none", "none://x"]
)
def test_a_store_that_cannot_be_used_stops_the_start(uri: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(TrackingError, match=r"run\.tracking_uri") as caught:
        open_run(make_recipe(tmp_path, uri), tmp_path / "runs/run")
    assert uri.replace("secret", "***") in str(caught.value)
    assert "secret" not in str(caught.value)
    assert all("secret" not in path.read_text() for path in (tmp_path / "runs/run").iterdir())
    assert time.monotonic() - started < PATIENCE_S


def test_a_run_that_the_store_does_not_know_is_not_replaced_silently(runs: Path) -> None:
    folder = runs / "run"
    shutil.copy(runs / "mlflow.db", runs / "other.db")
    open_run(make_recipe(runs.parent), folder)
    with pytest.raises(TrackingError, match=r"does not know run .* delete .*tracking\.json to record a new one"):
        open_run(make_recipe(runs.parent, f"sqlite:///{runs / 'other.db'}"), folder)


def test_what_a_finished_run_could_not_send_is_sent_without_opening_it_again(runs: Path) -> None:
    recipe, folder = make_recipe(runs.parent), runs / "run"
    run_id = open_run(recipe, folder)
    send_unsent(recipe, folder)
    state = (folder / STATE).read_text()
    (folder / STATE).write_text(json.dumps(json.loads(state) | {"tracking_uri": "http://127.0.0.1:9"}))
    with RunLogger(run_id, recipe, folder) as unreachable:
        unreachable.log_metrics({"test/uar": 0.7}, step=2)
        unreachable.finish()
    assert client_of(recipe).get_run(run_id).info.status == "RUNNING"
    (folder / STATE).write_text(state)
    send_unsent(recipe, folder)
    assert client_of(recipe).get_run(run_id).info.status == "FINISHED"
    assert history(recipe, run_id, "test/uar") == [(2, 0.7)]


def test_an_outage_in_the_middle_costs_nothing_but_a_warning(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    recipe, folder = make_recipe(tmp_path, server.uri), tmp_path / "runs/run"
    bundle = make_bundle(folder)
    run_id = open_run(recipe, folder)
    worker = RunLogger(run_id, recipe, folder)
    worker.log_metrics({"val/uar": 0.0}, step=0)
    assert worker.flush()

    server.kill()
    started = time.monotonic()
    for epoch in range(1, 4):
        worker.log_metrics({"val/uar": epoch / 10}, step=epoch)
        assert not worker.flush()
    del worker  # rank 0 dies without closing
    with RunLogger(run_id, recipe, folder) as driver:
        driver.log_metrics({"val/uar": 0.9, "test/uar": 0.5}, step=3)
        driver.log_figure(Figure(figsize=(1, 1)), "confusion")
        driver.log_model(bundle, "outage")
        driver.finish()
    assert time.monotonic() - started < PATIENCE_S
    unsent = [json.loads(line) for line in (folder / UNSENT_METRICS).read_text().split("\n") if line]
    waiting = ["val/uar 1", "val/uar 2", "val/uar 3", "val/uar 3", "test/uar 3"]
    assert [f"{point['key']} {point['step']}" for point in unsent] == waiting
    assert "the run goes on" in caplog.text
    with pytest.raises(TrackingError, match=server.uri):
        open_run(recipe, folder)

    server.start()
    server.wait()
    assert open_run(recipe, folder) == run_id
    client = client_of(recipe)
    assert history(recipe, run_id, "val/uar") == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3)]
    assert history(recipe, run_id, "test/uar") == [(3, 0.5)]
    assert [item.path for item in client.list_artifacts(run_id, "figures")] == ["figures/confusion.png"]
    assert [str(v.run_id) for v in client.search_model_versions("name = 'outage'")] == [run_id]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert not (folder / UNSENT_METRICS).exists()
    assert not (folder / UNSENT_CALLS).exists()
    copy = download_bundle(run_id, settings_uri=server.uri, into=tmp_path / "copy")
    assert (copy / "model.safetensors").read_bytes() == (bundle / "model.safetensors").read_bytes()


def test_a_worker_uses_the_store_that_the_driver_chose(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = make_recipe(tmp_path), tmp_path / "runs/run"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    run_id = open_run(recipe, folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with RunLogger(run_id, recipe, folder) as worker:
        worker.log_metrics({"loss": 1.5}, step=0)
    assert MlflowClient(server.uri).get_run(run_id).data.metrics == {"loss": 1.5}


def test_a_normal_run_prints_nothing(normal_run: subprocess.Popen[str]) -> None:
    assert normal_run.communicate(timeout=START_LIMIT_S) == ("", "")
    assert normal_run.returncode == 0
