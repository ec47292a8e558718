"""The build on Ray: real clips in, a set with every sample once out, whatever is killed on the way."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from face_media import face_tree, face_video

from preprocessing.build import LOCK, FailureBudgetError, PartWriter, build
from preprocessing.config import PreprocessSettings, validate
from preprocessing.parts import make_plan
from preprocessing.shards import ShardError, ShardSet, shard_set_path
from preprocessing.storage import locked

ROOT = Path(__file__).parents[2]
CLIPS, FRAMES = 24, 5
DRIVER = """
import sys, ray
from preprocessing.build import build
from preprocessing.config import PreprocessSettings, load

def start_ray(cpus):
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error")

build(load(PreprocessSettings, sys.argv[1]), start_ray)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder data set: 24 clips of which one is empty, one cut short and one shows no face."""
    root = face_tree(tmp_path_factory.mktemp("data"), CLIPS, frames=FRAMES)
    (root / "happy" / "002.mp4").write_bytes(b"")
    whole = root / "sad" / "003.mp4"
    whole.write_bytes(whole.read_bytes()[:400])
    face_video(root / "sad" / "005.mp4", FRAMES, absent=range(FRAMES))
    return root


def settings(root: Path, out: Path, **more: object) -> PreprocessSettings:
    tree = {"dataset": {"root": str(root), "name": "demo"}, "out": str(out), "clips_per_part": 2, "actors": 2}
    small = {"sampling": {"frames": FRAMES}, "faces": {"crop_px": 64, "detect_px": 192}}
    return validate(PreprocessSettings, tree | small | more)


def joined(cpus: float) -> None:
    """`start_ray` of tests that have a cluster already."""


def never(cpus: float) -> None:
    """`start_ray` of builds that have nothing to do."""
    raise AssertionError("Ray was started")


def digests(folder: Path) -> dict[str, str]:
    """Content hash of each row, clips and rejects, by sample id; fails when one is there twice."""
    shard_set = ShardSet.open(folder)
    rows = [row for part in shard_set.parts() for row in pq.read_table(part).to_pylist()]
    rows += shard_set.rejects().to_pylist()
    assert len({row["sample_id"] for row in rows}) == len(rows)
    return {row["sample_id"]: hashlib.sha256(repr(sorted(row.items())).encode()).hexdigest() for row in rows}


@pytest.fixture(scope="module")
def undisturbed(tree: Path, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """Folder of a set that was built without any disturbance."""
    out = tmp_path_factory.mktemp("undisturbed")
    seen: list[tuple[int, int, int]] = []
    report = build(settings(tree, out), joined, lambda *now: seen.append(now))
    assert seen[-1] == (CLIPS, CLIPS, 3)
    assert [now[0] for now in seen] == sorted(now[0] for now in seen)
    assert (report.clips, report.rejects, report.samples_done, report.samples_skipped) == (CLIPS - 3, 3, CLIPS, 0)
    assert report.clips_per_s > 0
    return report.shard_set


@pytest.mark.ray
def test_every_sample_is_one_row_and_bad_media_are_rejects(undisturbed: Path) -> None:
    found = ShardSet.open(undisturbed)
    assert len(digests(undisturbed)) == CLIPS
    assert set(found.manifest["reject_kinds"]) == {"empty", "unreadable", "no_face"}
    assert found.manifest["splits"] == {"all/train": {"happy": 11, "sad": 10}}
    assert found.manifest["frames_with_face"] == found.manifest["frames"] == 21 * FRAMES
    assert {p.name for p in undisturbed.iterdir()} >= {"plan.parquet", "parts", "rejects", "_manifest.json"}
    assert not [p for p in undisturbed.rglob("*") if p.name.endswith(".tmp") or p.parent.name == "attempts"]


@pytest.mark.ray
def test_the_second_build_does_nothing(tree: Path, undisturbed: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*.parquet")}
    report = build(settings(tree, undisturbed.parents[1]), never)
    assert (report.samples_done, report.samples_skipped, report.clips_per_s) == (0, CLIPS, 0)
    assert {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*.parquet")} == before


@pytest.mark.ray
def test_a_killed_machine_is_continued_to_the_same_set(tree: Path, tmp_path: Path, undisturbed: Path) -> None:
    """SIGKILL of the driver and of all of its Ray in mid-build; the second run writes what an undisturbed one does."""
    chosen = settings(tree, tmp_path / "out")
    recipe = tmp_path / "settings.yaml"
    recipe.write_text(yaml.safe_dump(chosen.model_dump(mode="json")))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(recipe)],
        cwd=ROOT,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    folder = shard_set_path(chosen)
    finished = wait_for_parts(folder, driver, 2)
    family = psutil.Process(driver.pid).children(recursive=True)
    for process in [driver, *family]:
        process.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stderr.close()
    psutil.wait_procs(family, timeout=10)
    assert 2 <= len(finished) < CLIPS // 2
    with pytest.raises(ShardError, match="is not finished"):
        ShardSet.open(folder)
    report = build(chosen, joined)
    assert 4 <= report.samples_skipped == CLIPS - report.samples_done < CLIPS
    assert {part: part.stat().st_mtime_ns for part in finished} == finished
    assert digests(folder) == digests(undisturbed)
    assert not list(folder.rglob("*.tmp"))


def wait_for_parts(folder: Path, driver: subprocess.Popen, count: int) -> dict[Path, int]:
    """The finished parts and their times, once there are so many."""
    deadline = time.monotonic() + 120
    while len(parts := list((folder / "parts").glob("part-*.parquet"))) < count:
        assert driver.poll() is None, driver.stderr.read().decode()[-2000:]
        assert time.monotonic() < deadline, "no part was finished in time"
        time.sleep(0.01)
    return {part: part.stat().st_mtime_ns for part in parts}


def is_part_writer(process: psutil.Process) -> bool:
    try:
        return "PartWriter" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # ended since it was listed
        return False


@pytest.mark.ray
def test_killed_workers_are_replaced(tree: Path, tmp_path: Path, undisturbed: Path) -> None:
    killed: list[int] = []

    def kill_one(finished: int, total: int, rejects: int) -> None:
        workers = [p for p in psutil.Process().children(recursive=True) if is_part_writer(p) and p.pid not in killed]
        if len(killed) < 2 and workers:
            killed.append(workers[0].pid)
            workers[0].kill()

    report = build(settings(tree, tmp_path), joined, kill_one)
    assert len(killed) == 2
    assert digests(report.shard_set) == digests(undisturbed)


@pytest.mark.ray
def test_new_samples_extend_the_set(tmp_path: Path, ray_cluster: None) -> None:
    root = face_tree(tmp_path / "data", 3, frames=2)
    chosen = settings(root, tmp_path / "out", actors=1)
    first = build(chosen, joined)
    before = digests(first.shard_set)
    face_video(root / "fear" / "new.mp4", 2)
    second = build(chosen, joined)
    assert (second.samples_done, second.samples_skipped, second.clips) == (1, 3, 4)
    after = digests(second.shard_set)
    assert {name: after[name] for name in before} == before
    (root / "fear" / "new.mp4").unlink()
    third = build(chosen, never)
    assert third.warnings[-1].startswith("1 samples are no longer in the data set, e.g. demo/fear/new.mp4")


@pytest.mark.ray
def test_the_failure_budget_stops_with_a_breakdown_and_can_be_raised(tmp_path: Path, ray_cluster: None) -> None:
    root = face_tree(tmp_path / "data", 5, frames=2)
    for name in ("happy/000", "sad/001", "happy/002"):
        (root / f"{name}.mp4").write_bytes(b"")
    chosen = settings(root, tmp_path / "out", max_reject_share=0.5, actors=1)
    with pytest.raises(FailureBudgetError, match=r"3 of 5 samples were rejected.*\n +3 empty +e\.g\. .*mp4: has zero"):
        build(chosen, joined)
    with pytest.raises(FailureBudgetError):
        build(chosen, never)
    report = build(settings(root, tmp_path / "out", max_reject_share=0.6), never)
    assert (report.clips, report.rejects, report.samples_done) == (2, 3, 0)


@pytest.mark.ray
def test_a_hopeless_job_stops_early(tmp_path: Path, ray_cluster: None) -> None:
    root = tmp_path / "data" / "happy"
    root.mkdir(parents=True)
    for i in range(400):
        (root / f"{i:03d}.mp4").touch()
    with pytest.raises(FailureBudgetError, match="samples were rejected"):
        build(settings(root.parent, tmp_path / "out", clips_per_part=10, actors=1), joined)
    [folder] = (tmp_path / "out" / "demo").iterdir()
    done = len(list((folder / "parts").glob("part-*")))
    assert 5 <= done < 40


def test_a_sample_that_kills_its_worker_becomes_a_reject(tmp_path: Path) -> None:
    """An exception that nothing catches ends the attempt as the death of the worker would."""

    class WorkerDeath(BaseException):
        pass

    root = face_tree(tmp_path / "data", 3, frames=2)
    chosen = settings(root, tmp_path / "out", clips_per_part=3)
    from preprocessing.datasets import read

    folder = shard_set_path(chosen)
    make_plan(folder, read(chosen.dataset).table, 3)
    writer = PartWriter(folder, chosen)
    healthy = writer.clips.process

    def process(sample):
        if sample["sample_id"] == "demo/happy/002.mp4":
            raise WorkerDeath
        return healthy(sample)

    writer.clips.process = process
    for _ in range(3):
        with pytest.raises(WorkerDeath):
            PartWriter.__call__(writer, {"part": 0})
    outcome = writer({"part": 0})
    writer.clips.close()
    assert (outcome["clips"], outcome["kinds"], outcome["counts"]) == (2, ["crash"], [1])
    assert "3 workers were lost at this sample" in outcome["examples"][0]
    assert not list((folder / "attempts").iterdir())


def test_two_builds_of_one_set_do_not_meet(tmp_path: Path) -> None:
    chosen = settings(face_tree(tmp_path / "data", 1, frames=2), tmp_path / "out")
    held = "another build of this shard set is running"
    with locked(shard_set_path(chosen) / LOCK), pytest.raises(ShardError, match=held):
        build(chosen, never)
