"""The life of one logical run in MLflow: opened by the driver, continued after every restart.

A server that cannot be reached stops a run only at its start. Later, whatever cannot be sent waits in the run
folder (`unsent_metrics.jsonl`, `unsent_calls.json`) and is sent by the next process that opens the run.
"""

import hashlib
import json
import logging
import math
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import tracking_store as store
from pipeline.checkpoint import BUNDLE, recipe_yaml
from pipeline.config import Recipe
from pipeline.outbox import UNSENT_CALLS, UNSENT_METRICS, Outbox, Point, read_json, write_json
from pipeline.run import flatten
from pipeline.tracking_store import TrackingError, tracking_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

STATE = "tracking.json"
RUN_KEY_TAG, BUNDLE_TAG = "ferflow.run_key", "ferflow.bundle_sha256"


def open_run(recipe: Recipe, folder: str | Path, tags: Mapping[str, str] | None = None) -> str:
    """Create the MLflow run of a run folder, or continue it; returns its id.

    Parameters, tags and recipe.yaml are written at once: that is the test that the store can be used. What an
    earlier process could not send is sent now.

    Raises:
        TrackingError: the store cannot be reached or written, or does not know the run any more.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    uri = tracking_uri(recipe.run.tracking_uri, recipe.run.dir)
    try:
        with store.patience(**store.AT_START):
            client = store.connect(uri)
            run_id = _claim(client, recipe, folder, uri)
            _describe(client, run_id, recipe, tags or {})
    except TrackingError:
        raise
    except Exception as error:
        shown = store.without_password(uri)
        raise TrackingError(
            f"MLflow at {shown} cannot be used: {str(error).replace(uri, shown)}\n"
            "Start that server, or correct run.tracking_uri or MLFLOW_TRACKING_URI; without both, runs are "
            "recorded in sqlite in run.dir"
        ) from error
    RunLogger(run_id, recipe, folder).catch_up()
    return run_id


def download_bundle(run: str, settings_uri: str | None = None, run_dir: str = "runs", into: Path | None = None) -> Path:
    """Local bundle of a run.

    Args:
        run: a bundle or run folder, the name of a run in `run_dir`, an MLflow run id, or `models:/<name>/<version>`.
        into: where a download goes; default: a temporary directory.

    Raises:
        TrackingError: there is no such run, it has no model, or the store cannot be read.
    """
    for folder in (Path(run), Path(run_dir) / run):
        if folder.is_dir():
            return folder / "bundle" if (folder / "bundle").is_dir() else folder
    uri = tracking_uri(settings_uri, run_dir)
    try:
        return store.download_model_bundle(uri, run, into)
    except Exception as error:
        raise TrackingError(
            f"{run} is neither a run folder (here or in {run_dir}) nor a run with a model in MLflow at "
            f"{store.without_password(uri)}: {error}"
        ) from error


def send_unsent(recipe: Recipe, folder: str | Path) -> None:
    """Send what a run could not send before it finished; does nothing when nothing waits, and never raises because
    of the server.
    """
    folder = Path(folder)
    if any((folder / name).exists() for name in (UNSENT_METRICS, UNSENT_CALLS)):
        RunLogger(read_json(folder / STATE)["run_id"], recipe, folder).catch_up()


class RunLogger:
    """Writes to an open run, from the driver or from rank 0; never raises because of the server.

    Metrics are buffered: call `flush` before a checkpoint is reported, so that no finished epoch is lost.
    """

    def __init__(self, run_id: str, recipe: Recipe, folder: str | Path) -> None:
        self.run_id, self.folder = run_id, Path(folder)
        self.uri = _chosen_uri(self.folder, recipe)
        self._outbox = Outbox(self.folder, self._send, self._recorded)
        self._calls_file = self.folder / UNSENT_CALLS

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record scalars at a step, NaN and infinity left out; the first value of a (key, step) stands."""
        now_ms = int(time.time() * 1000)
        lost = [key for key, value in metrics.items() if not math.isfinite(value)]
        if lost:
            logger.warning("Not finite at step %d, so not recorded: %s", step, ", ".join(lost))
        finite = {key: float(value) for key, value in metrics.items() if key not in lost}
        self._outbox.add([Point(key, value, step, now_ms) for key, value in finite.items()])

    def flush(self) -> bool:
        """Send the buffered metrics; True when nothing waits."""
        return self._outbox.flush()

    def log_figure(self, figure: "str | Path | Figure", name: str = "figure") -> None:
        """Record a picture under `figures/`; a Figure is saved as <run folder>/<name>.png first."""
        if not isinstance(figure, str | Path):
            path = self.folder / f"{name}.png"
            figure.savefig(path)
            figure = path
        self._call("upload_file", str(_existing(figure)), "figures")

    def log_artifacts(self, directory: str | Path, name: str | None = None) -> None:
        """Record all files of a directory, under its own or the given name."""
        directory = _existing(directory)
        self._call("upload_directory", str(directory), name or directory.name)

    def log_model(self, bundle: str | Path, registered_name: str) -> None:
        """Record a bundle as a model that MLflow loads by itself, and register it as a new version.

        A bundle that this run has registered already is not registered again.
        """
        self._call("register_model", str(_existing(bundle)), registered_name)

    def finish(self, status: str = "FINISHED") -> None:
        """Set the final status: FINISHED, FAILED or KILLED."""
        self._call("set_status", status)

    def close(self) -> None:
        """Send what is buffered; what cannot be sent stays in the run folder."""
        self._outbox.flush(now=True)

    def catch_up(self) -> None:
        """Send what earlier processes of this run could not send."""
        calls = read_json(self._calls_file) or []
        self._calls_file.unlink(missing_ok=True)
        self._outbox.flush(now=True)
        for name, *arguments in calls:
            self._call(name, *arguments)

    def _call(self, name: str, *arguments: str) -> None:
        """Do one step now, or leave it to the next process that opens the run."""
        steps = {
            "upload_file": self._upload_file,
            "upload_directory": self._upload_directory,
            "register_model": self._register_model,
            "set_status": self._set_status,
        }
        try:
            with store.patience(**store.WHILE_TRAINING):
                self._client.get_run(self.run_id)
            self._outbox.flush(now=True)
            with store.patience(**store.UPLOADING):
                steps[name](*arguments)
        except Exception as error:  # noqa: BLE001  each artifact store raises its own classes; none may stop a run
            logger.warning("MLflow: %s %s waits in %s (%s)", name, " ".join(arguments), self._calls_file, error)
            write_json(self._calls_file, [*(read_json(self._calls_file) or []), [name, *arguments]])

    @cached_property
    def _client(self) -> "MlflowClient":
        return store.connect(self.uri)

    def _send(self, points: Sequence[Point]) -> None:
        with store.patience(**store.WHILE_TRAINING):
            store.send_points(self._client, self.run_id, points)

    def _recorded(self, keys: Collection[str]) -> set[tuple[str, int]]:
        with store.patience(**store.WHILE_TRAINING):
            known = self._client.get_run(self.run_id).data.metrics.keys() & set(keys)
            return {(key, m.step) for key in known for m in self._client.get_metric_history(self.run_id, key)}

    def _upload_file(self, path: str, target: str) -> None:
        self._client.log_artifact(self.run_id, path, target)

    def _upload_directory(self, path: str, target: str) -> None:
        self._client.log_artifacts(self.run_id, path, target)

    def _set_status(self, status: str) -> None:
        self._client.set_terminated(self.run_id, status)

    def _register_model(self, bundle: str, name: str) -> None:
        facts = (Path(bundle) / BUNDLE).read_bytes()
        digest = hashlib.sha256(facts).hexdigest()
        model_id = store.recorded_model(self._client, self.run_id, BUNDLE_TAG, digest)
        if model_id is None:
            epoch = json.loads(facts)["epoch"]
            model_id = store.record_model(self.uri, self.run_id, Path(bundle), epoch, {BUNDLE_TAG: digest})
        store.register_model(self.uri, self.run_id, model_id, name)


def _claim(client: "MlflowClient", recipe: Recipe, folder: Path, uri: str) -> str:
    """Run id of the folder. The key is stored before the run is created, so that a kill in between leaves no twin."""
    path = folder / STATE
    state: dict[str, Any] = read_json(path) or {"run_key": uuid.uuid4().hex}
    state["tracking_uri"] = store.without_password(uri)
    write_json(path, state)
    experiment = store.experiment_id(client, recipe.run.experiment, uri, recipe.run.dir)
    run_id = state.get("run_id")
    if run_id is None:
        found = client.search_runs([experiment], f"tags.`{RUN_KEY_TAG}` = '{state['run_key']}'", max_results=1)
        tags = {RUN_KEY_TAG: state["run_key"]}
        run = found[0] if found else client.create_run(experiment, tags=tags, run_name=recipe.run.name)
        write_json(path, state | {"run_id": run.info.run_id})
        return run.info.run_id
    _continue(client, run_id, path, uri)
    return run_id


def _continue(client: "MlflowClient", run_id: str, path: Path, uri: str) -> None:
    try:
        client.update_run(run_id, status="RUNNING")
    except Exception as error:
        if getattr(error, "error_code", None) not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise TrackingError(
            f"MLflow at {store.without_password(uri)} does not know run {run_id} any more ({error}): use the "
            f"tracking URI that the run began with, restore the run, or delete {path} to record a new one"
        ) from error


def _describe(client: "MlflowClient", run_id: str, recipe: Recipe, tags: Mapping[str, str]) -> None:
    shown = store.without_password(recipe.run.tracking_uri or "") or None
    recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"tracking_uri": shown})})
    dataset = recipe.preprocess.dataset
    facts = {
        "seed": str(recipe.seed),
        "model": recipe.model.name,
        "dataset": dataset.name or dataset.reader,
    }
    store.send_tags(client, run_id, store.origin() | facts | dict(tags))
    params = flatten(recipe.model_dump(mode="json"))
    store.send_params(client, run_id, {name: str(value) for name, value in params.items()})
    client.log_text(run_id, recipe_yaml(recipe), "recipe.yaml")


def _chosen_uri(folder: Path, recipe: Recipe) -> str:
    """The driver's choice counts: a worker on another node may not see the driver's environment."""
    chosen = (read_json(folder / STATE) or {}).get("tracking_uri", "***")
    return tracking_uri(recipe.run.tracking_uri, recipe.run.dir) if "***" in chosen else chosen


def _existing(path: str | Path) -> Path:
    path = Path(path).absolute()
    if not path.exists():
        raise FileNotFoundError(f"{path}: nothing to record there")
    return path
