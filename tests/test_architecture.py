"""The rules of the code base that a reviewer would otherwise have to remember."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("preprocessing", "pipeline", "jobs")
FORBIDDEN = {"preprocessing": {"pipeline", "jobs", "mlflow"}, "pipeline": {"jobs"}, "jobs": set()}
RAY_IN_PREPROCESSING = {"build.py"}
RAY_FREE = {
    "augment.py",
    "batch.py",
    "loop.py",
    "losses.py",
    "optim.py",
    "step.py",
    "metrics.py",
    "predict.py",
    "split.py",
}
MAX_FUNCTION_LINES = 80


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    wrong = imported(path) & FORBIDDEN[package]
    if package == "preprocessing" and path.name not in RAY_IN_PREPROCESSING:
        wrong |= imported(path) & {"ray"}
    if package == "pipeline" and (path.name in RAY_FREE or path.parent.name == "models"):
        wrong |= imported(path) & {"ray", "mlflow"}
    assert not wrong, f"{path.relative_to(ROOT)} must not import {', '.join(sorted(wrong))}"


def test_functions_stay_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_imports_have_no_effects(tmp_path: Path) -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources() if path.stem != "__init__"]
    script = "\n".join(
        [
            "import importlib, os, sys",
            "import ray  # sets RAY_CLIENT_MODE by itself",
            "before = dict(os.environ)",
            *(f"importlib.import_module({name!r})" for name in modules),
            "assert not ray.is_initialized(), 'Ray was started'",
            "changed = {k for k in os.environ if k.startswith(('RAY_', 'MLFLOW_')) and before.get(k) != os.environ[k]}",
            "assert not changed, f'environment was changed: {changed}'",
            "assert not os.listdir('.'), f'files were made: {os.listdir(\".\")}'",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, env={**_clean_env()}, check=False
    )
    assert done.returncode == 0, done.stderr


def _clean_env() -> dict[str, str]:
    import os

    return {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))} | {"PYTHONPATH": str(ROOT)}
