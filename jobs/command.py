"""What every command shares: arguments, exit codes, the result file, one place that starts Ray."""

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

from preprocessing.config import S, load

OK, FAILED, BAD_INPUT, BUDGET_SPENT, INTERRUPTED = 0, 1, 2, 3, 4

console = Console(highlight=False, soft_wrap=True)


class UsageError(ValueError):
    """The command line or its input is wrong; the message says how to put it right."""


def recipe_arguments(verb: str, text: str) -> argparse.ArgumentParser:
    """Parser of `python -m jobs.<verb> recipe.yaml key.subkey=value ...`."""
    parser = argparse.ArgumentParser(prog=f"python -m jobs.{verb}", description=text)
    parser.add_argument("recipe", help="YAML recipe, e.g. jobs/recipes/hdf_dfew.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the recipe's")
    parser.add_argument("--dry-run", action="store_true", help="validate, print the plan, compute nothing")
    return parser


def settings_arguments(verb: str, text: str, cls: type[S], arguments: list[str] | None) -> S:
    """Parse `python -m jobs.<verb> key=value ...` into a settings class; --help lists its keys.

    Raises:
        ConfigError: every fault at once.
    """
    keys = [f"  {name:<14}{field.description or ''}" for name, field in cls.model_fields.items()]
    parser = argparse.ArgumentParser(
        prog=f"python -m jobs.{verb}",
        description=text,
        epilog="keys:\n" + "\n".join(keys),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    return load(cls, None, parser.parse_args(arguments).overrides)


def run(main: Callable[[], Any]) -> None:
    """Run a command and exit: 0 ok, 1 failed, 2 bad input, 3 failure budget spent, 4 interrupted (state saved)."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        main()
        code = OK
    except KeyboardInterrupt:
        print("interrupted: what was finished is saved; the same command continues", file=sys.stderr)
        code = INTERRUPTED
    except Exception as error:
        code = _exit_code(error)
        if code == FAILED:
            raise
        print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _exit_code(error: Exception) -> int:
    # By name and lazily: a faulty recipe must not wait for torch, Ray and MLflow to load.
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & {"FailureBudgetError"}:
        return BUDGET_SPENT
    wrong = {
        "ConfigError",
        "ManifestError",
        "SplitError",
        "CheckpointError",
        "TrackingError",
        "ShardError",
        "UsageError",
    }
    return BAD_INPUT if names & wrong else FAILED


def start_ray(cpus_needed: float = 0) -> None:
    """Join the cluster of RAY_ADDRESS (or of the job), else start Ray on this machine.

    A machine with fewer CPUs than the plan needs runs it all the same, slower: Ray's CPUs are a count, not cores.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True)
        return
    # A laptop's Ray lives as long as the command: its native log lines would only bury the command's own output.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    _quiet()
    cpus = max(os.cpu_count() or 1, math.ceil(cpus_needed))
    ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="error")
    _quiet()


def _quiet() -> None:
    """Commands draw their own progress; Ray's would bury it. Its log files keep everything."""
    import logging

    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
