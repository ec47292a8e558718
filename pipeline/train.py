"""The trainer around the worker: shards in, tracked run with a bundle, scores and figures out."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline import figures
from pipeline.checkpoint import WEIGHTS, BundleFacts, file_sha256, read_facts, write_bundle
from pipeline.config import Recipe
from pipeline.data import TRAIN_MARGIN, ExactSplit, clip_dataset, read_index
from pipeline.evaluate import evaluate
from pipeline.progress import ProgressBar
from pipeline.run import bind, finished_result, read_history, run_folder, write_result
from pipeline.split import Split, assign
from pipeline.tracking import RunLogger, open_run, send_unsent
from pipeline.worker import train_worker
from preprocessing.config import ConfigError
from preprocessing.report import CONTACT_SHEET, contact_sheet
from preprocessing.shards import ShardSet, shard_set_path

CPUS_FOR_DATA = 1
"""CPUs that Ray Data needs beside the training workers; without one it would wait for ever."""


class TrainingError(RuntimeError):
    """Training failed for good; names the run folder and what went wrong."""


def cpus_needed(recipe: Recipe) -> float:
    """CPUs of the cluster that a run takes: its workers and the data tasks beside them."""
    return recipe.run.workers * recipe.run.cpus_per_worker + CPUS_FOR_DATA


def plan(recipe: Recipe) -> tuple[ShardSet, Split]:
    """Open the shard set of the recipe and assign its clips.

    Raises:
        preprocessing.shards.ShardError: no complete shard set of these settings.
        pipeline.split.SplitError: the split is not in it.
    """
    shard_set = ShardSet.open(shard_set_path(recipe.preprocess))
    return shard_set, assign(read_index(shard_set), recipe.data, recipe.seed)


def train(recipe: Recipe, start_ray: Callable[[float], None]) -> dict[str, Any]:
    """Train, choose the best epoch, test it, track it; a finished run returns its result at once.

    The same run name continues an interrupted run from its last checkpoint, in the same MLflow run.

    Args:
        start_ray: joins or starts Ray; told how many CPUs the run needs.

    Returns:
        The content of result.json.

    Raises:
        ConfigError: the run folder belongs to another recipe, or the cluster is too small.
        TrainingError: the workers failed more often than allowed.
    """
    folder = run_folder(recipe)
    finished = finished_result(folder, recipe)
    if finished is not None:
        send_unsent(recipe, folder)
        return finished
    shard_set, split = plan(recipe)
    start_ray(cpus_needed(recipe))
    gpu = _use_gpu(recipe)
    _check_cluster(recipe, gpu)
    bind(folder, recipe)
    run_id = open_run(recipe, folder, _tags(shard_set, split))
    with RunLogger(run_id, recipe, folder) as logger:
        try:
            result = _train(recipe, folder, shard_set, split, run_id, gpu, logger)
        except KeyboardInterrupt:
            logger.finish("KILLED")
            raise
        except Exception:
            logger.finish("FAILED")
            raise
        logger.finish("FINISHED")
    return result


def _train(
    recipe: Recipe, folder: Path, shard_set: ShardSet, split: Split, run_id: str, gpu: bool, logger: RunLogger
) -> dict[str, Any]:
    started = time.perf_counter()
    with ProgressBar(folder, f"train {recipe.model.name}"):
        checkpoint = _fit(recipe, folder, shard_set, split, run_id, gpu)
    seconds = round(time.perf_counter() - started, 1)
    bundle, result = _test(recipe, folder, shard_set, split, checkpoint, gpu, logger)
    result |= _log(recipe, shard_set, bundle, result, logger)
    result |= {"train_seconds": seconds, "mlflow_run_id": run_id}
    write_result(folder, result)
    return result


def _tags(shard_set: ShardSet, split: Split) -> dict[str, str]:
    sizes = {f"clips_{name}": str(len(split.part(name))) for name in ("train", "val", "test")}
    return {"shard_set": str(shard_set.path), "fingerprint": shard_set.fingerprint} | sizes


def _use_gpu(recipe: Recipe) -> bool:
    if recipe.run.use_gpu == "auto":
        return ray.cluster_resources().get("GPU", 0) >= recipe.run.workers
    return recipe.run.use_gpu


def _check_cluster(recipe: Recipe, gpu: bool) -> None:
    """Refuse a plan that would wait for ever."""
    there, needed, faults = ray.cluster_resources(), cpus_needed(recipe), []
    if there.get("CPU", 0) < needed:
        faults.append(
            f"run.workers = {recipe.run.workers} x run.cpus_per_worker = {recipe.run.cpus_per_worker} and "
            f"{CPUS_FOR_DATA} for data need {needed:g} CPUs, the cluster has {there.get('CPU', 0):g}: use fewer workers"
        )
    if gpu and there.get("GPU", 0) < recipe.run.workers:
        faults.append(f"run.use_gpu: {recipe.run.workers} GPUs needed, the cluster has {there.get('GPU', 0):g}")
    if faults:
        raise ConfigError("cluster", faults)


def _fit(recipe: Recipe, folder: Path, shard_set: ShardSet, split: Split, run_id: str, gpu: bool) -> Path:
    """Train; returns the best checkpoint."""
    chosen_on = split.part(recipe.run.select_on)
    cached = _fits_cache(recipe, len(split.train) + len(chosen_on))
    gpus = {"GPU": 1} if gpu else {}
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "recipe": recipe.model_dump(mode="json"),
            "classes": split.classes,
            "train_counts": split.train_counts,
            "val_size": len(chosen_on),
            "cached": cached,
            "run_id": run_id,
            "folder": str(folder),
        },
        datasets=_datasets(recipe, shard_set, split.train, chosen_on, cached),
        dataset_config=ExactSplit(),
        scaling_config=ScalingConfig(
            num_workers=recipe.run.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": recipe.run.cpus_per_worker} | gpus,
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=recipe.run.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=recipe.run.keep_checkpoints,
                checkpoint_score_attribute="val_select",
                checkpoint_score_order="max",
            ),
        ),
    )
    outcome = trainer.fit()
    if outcome.error is not None or not outcome.best_checkpoints:
        raise TrainingError(f"{folder}: training failed: {outcome.error}") from outcome.error
    checkpoint, _ = max(outcome.best_checkpoints, key=lambda pair: pair[1]["val_select"])
    return Path(checkpoint.path)


def _datasets(
    recipe: Recipe, shard_set: ShardSet, train_ids: list[str], val_ids: list[str], cached: bool
) -> dict[str, ray.data.Dataset]:
    data = recipe.data
    return {
        "train": clip_dataset(
            shard_set,
            train_ids,
            frames=recipe.preprocess.sampling.frames,
            side_px=round(data.image_px * TRAIN_MARGIN),
            shuffle_seed=None if cached else recipe.seed,
        ),
        "val": clip_dataset(shard_set, val_ids, frames=data.frames, side_px=data.image_px),
    }


def _fits_cache(recipe: Recipe, clips: int) -> bool:
    side = recipe.data.image_px * TRAIN_MARGIN
    mib = clips / recipe.run.workers * recipe.preprocess.sampling.frames * side * side * 3 / 2**20
    return mib <= recipe.data.cache_mib


def _test(
    recipe: Recipe,
    folder: Path,
    shard_set: ShardSet,
    split: Split,
    checkpoint: Path,
    gpu: bool,
    logger: RunLogger,
) -> tuple[Path, dict[str, Any]]:
    """Write the bundle of the best epoch and score it on test (on val where there is no test part)."""
    facts, warnings = read_facts(checkpoint), list(split.warnings)
    if recipe.run.select_on == "test":
        warnings.append("run.select_on = test: the best epoch was chosen on the test part, scores are optimistic")
    about = BundleFacts(
        classes=split.classes,
        model=recipe.model.name,
        weights_sha256=file_sha256(checkpoint / WEIGHTS),
        shard_fingerprint=shard_set.fingerprint,
        epoch=facts["epoch"],
        warnings=warnings,
    )
    bundle = write_bundle(folder / "bundle", checkpoint / WEIGHTS, recipe, about)
    part = "test" if split.test else "val"
    tested = evaluate(bundle, shard_set, split.part(part), workers=recipe.run.workers, gpu=gpu)
    tested.predictions.to_parquet(folder / f"predictions_{part}.parquet")
    scores = tested.scores.to_dict()
    write_bundle(bundle, checkpoint / WEIGHTS, recipe, replace(about, scores={part: scores}))
    logger.log_metrics(tested.scores.to_metrics(part), step=facts["epoch"])
    matrix = figures.save(figures.confusion_matrix(tested.scores), folder / "confusion_matrix.png")
    return bundle, {
        "run": recipe.run.name,
        "model": recipe.model.name,
        "part": part,
        "uar": tested.scores.uar,
        "war": tested.scores.war,
        "chance": 1 / len(split.classes),
        "best_epoch": facts["epoch"],
        "epochs": recipe.optim.epochs,
        **{name: facts[name] for name in ("val_uar", "trained_parameters", "total_parameters", "train_clips_per_s")},
        "clips": {name: len(split.part(name)) for name in ("train", "val", "test")},
        "scores": scores,
        "warnings": warnings,
        "bundle": str(bundle),
        "confusion_matrix": str(matrix),
    }


def _log(
    recipe: Recipe,
    shard_set: ShardSet,
    bundle: Path,
    result: dict[str, Any],
    logger: RunLogger,
) -> dict[str, str]:
    """Figures and model into the tracked run; where the figures lie."""
    curves = figures.training_curves(read_history(bundle.parent), recipe.run.name, result["best_epoch"])
    pictures = {
        "confusion_matrix": Path(result["confusion_matrix"]),
        "training_curves": figures.save(curves, bundle.parent / "training_curves.png"),
        "contact_sheet": shard_set.path / CONTACT_SHEET,
    }
    if not pictures["contact_sheet"].exists():
        contact_sheet(shard_set.path, pictures["contact_sheet"])
    for picture in pictures.values():
        logger.log_figure(picture)
    logger.log_model(bundle, recipe.run.register_as or recipe.model.name)
    return {name: str(path) for name, path in pictures.items()}
