"""python -m jobs.mlflow dir=<runs>: MLflow's pages for the runs of a directory, on this machine only."""

import os
import subprocess
import sys
from pathlib import Path

from pydantic import Field

from jobs.command import UsageError, console, run, settings_arguments
from preprocessing.config import Settings


class PageSettings(Settings):
    """Which runs to show, and where."""

    dir: str = "runs"
    """The `run.dir` of the runs."""
    port: int = Field(default=5000, ge=1, le=65535)


def main(arguments: list[str] | None = None) -> None:
    """Serve MLflow's pages on 127.0.0.1 until interrupted."""
    settings = settings_arguments("mlflow", main.__doc__ or "", PageSettings, arguments)
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        database = Path(settings.dir).absolute() / "mlflow.db"
        if not database.exists():
            raise UsageError(f"{database} does not exist: train first (make demo), or give dir=<run.dir of your runs>")
        uri = f"sqlite:///{database}"
    # The home page of MLflow 3.17 opens on its GenAI view; the list of experiments shows the runs.
    console.print(f"http://127.0.0.1:{settings.port}/#/experiments shows {uri}; stop with Ctrl-C")
    command = ["mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(settings.port)]
    subprocess.run([sys.executable, "-m", *command], check=True)


if __name__ == "__main__":
    run(main)
