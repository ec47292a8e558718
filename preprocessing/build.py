"""The Ray Data job that builds a shard set: one task per part, committed by the task itself.

Exactly once by construction: the plan fixes which samples form a part, a part is written whole or not at all, and writing it
again writes the same rows under the same name. So a task that Ray repeats, a worker that was thought dead, and a job
that was killed and started again all end in the same set. Resuming means: do the parts that have no file.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray
import ray.data
from ray.data import ActorPoolStrategy

from preprocessing.clip import ClipProcessor
from preprocessing.config import PreprocessSettings
from preprocessing.datasets import read
from preprocessing.shards import (
    MANIFEST,
    PLAN,
    ShardError,
    ShardSet,
    commit,
    done_parts,
    fingerprint,
    make_plan,
    shard_set_path,
    write_part,
)

BUDGET_AFTER = 50
"""Rejects are not weighed against the failure budget before so many clips are finished."""


class FailureBudgetError(RuntimeError):
    """Too large a share of the clips was rejected; says which kinds, with an example each."""


@dataclass(frozen=True)
class BuildReport:
    """What a build did. `clips` and `rejects` are those of the whole set, `*_done` those of this call."""

    shard_set: Path
    clips: int
    rejects: int
    reject_kinds: dict[str, int]
    samples_done: int
    samples_skipped: int
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
    """Ray Data actor: makes the rows of a part and commits it."""

    def __init__(self, folder: str, settings: PreprocessSettings) -> None:
        self.folder = Path(folder)
        self.clips = ClipProcessor(settings, fingerprint(settings))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part = int(row["part"])
        samples = pq.read_table(self.folder / PLAN, filters=[("part", "==", part)]).to_pylist()
        rows = [self.clips.process(sample) for sample in samples]
        write_part(self.folder, part, rows)
        bad = [row for row in rows if "kind" in row]
        return {"samples": len(rows), "kinds": [r["kind"] for r in bad], "messages": [r["message"] for r in bad]}


def build(
    settings: PreprocessSettings,
    start_ray: Callable[[float], None],
    progress: Callable[[int, int, int], None] | None = None,
) -> BuildReport:
    """Build the shard set of the settings, or complete it; does nothing when it is complete.

    Args:
        start_ray: joins or starts Ray; only called when there is work.
        progress: called with samples finished, samples in all, rejects of this call.

    Raises:
        ManifestError: faults of the data set.
        ShardError: the plan of an earlier build contradicts the data set.
        FailureBudgetError: `max_reject_share` exceeded; finished parts stay.
    """
    manifest = read(settings.dataset)
    folder = shard_set_path(settings)
    folder.mkdir(parents=True, exist_ok=True)
    plan = make_plan(folder, manifest.table, settings.clips_per_part)
    sizes = Counter(plan["part"].to_pylist())
    done = done_parts(folder)
    todo = sorted(sizes.keys() - done)
    skipped = sum(sizes[part] for part in done & sizes.keys())
    seconds = 0.0
    if todo:
        (folder / MANIFEST).unlink(missing_ok=True)
        start_ray(1)
        started = time.perf_counter()
        _run(folder, settings, todo, skipped, plan.num_rows, progress)
        seconds = time.perf_counter() - started
    if todo or not (folder / MANIFEST).exists():
        commit(folder, plan, settings, {"warnings": manifest.warnings, "seconds": round(seconds, 1)})
    facts = ShardSet.open(folder).manifest
    return BuildReport(
        shard_set=folder,
        clips=facts["clips"],
        rejects=facts["rejects"],
        reject_kinds=facts["reject_kinds"],
        samples_done=plan.num_rows - skipped,
        samples_skipped=skipped,
        seconds=round(seconds, 2),
        warnings=manifest.warnings,
    )


def _run(
    folder: Path,
    settings: PreprocessSettings,
    todo: list[int],
    skipped: int,
    total: int,
    progress: Callable[[int, int, int], None] | None,
) -> None:
    finished, kinds, examples = 0, Counter[str](), {}
    for outcome in _stream(folder, settings, todo):
        finished += outcome["samples"]
        for kind, message in zip(outcome["kinds"], outcome["messages"], strict=True):
            kinds[kind] += 1
            examples.setdefault(kind, message)
        if progress is not None:
            progress(skipped + finished, total, kinds.total())
        _check_budget(settings.max_reject_share, finished, kinds, examples)
    if skipped + finished != total:
        raise ShardError(
            f"{folder}: {total - skipped - finished} samples were not finished: run the same command again"
        )


def _stream(folder: Path, settings: PreprocessSettings, todo: list[int]) -> Iterator[dict[str, Any]]:
    """Statistics of each part as it is committed."""
    actors = settings.actors or max(1, int(ray.cluster_resources().get("CPU", 1)))
    # One block per part: a task is a part, and what a lost worker costs is the part that it was at.
    parts = ray.data.from_items([{"part": part} for part in todo], override_num_blocks=len(todo))
    outcomes = parts.map(
        PartWriter,
        fn_constructor_kwargs={"folder": str(folder), "settings": settings},
        compute=ActorPoolStrategy(size=min(actors, len(todo)), max_tasks_in_flight_per_actor=2),
        num_cpus=1,
    )
    yield from outcomes.iter_rows()


def _check_budget(max_share: float, finished: int, kinds: Counter[str], examples: dict[str, str]) -> None:
    if finished < BUDGET_AFTER or kinds.total() <= max_share * finished:
        return
    lines = [f"  {count:>6} {kind:<12} e.g. {examples[kind]}" for kind, count in kinds.most_common()]
    raise FailureBudgetError(
        f"{kinds.total()} of {finished} samples were rejected, preprocess.max_reject_share is {max_share:g}; finished "
        "parts are kept, mend the cause or raise the limit and run again:\n" + "\n".join(lines)
    )
