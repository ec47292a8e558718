"""The project's commands as a user runs them: in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMALL = [
    "preprocess.sampling.frames=4",
    "preprocess.faces.crop_px=64",
    "data.frames=4",
    "data.image_px=32",
    "optim.epochs=2",
    "optim.warmup_epochs=0",
    "run.cpus_per_worker=1",
]


def command(verb: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"jobs.{verb}", *arguments]


def environment() -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    return inherited | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(verb: str, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        command(verb, *arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == code, f"{verb} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr
