"""The Ray Train worker: its share of the clips, the epochs, checkpoints, reports.

Every random decision is a function of (seed, epoch, rank), so a run that was killed and continued on one worker
ends with the same weights as an undisturbed one.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from torch import nn

from pipeline.batch import ClipBatches, steps_per_epoch
from pipeline.checkpoint import load_checkpoint, save_checkpoint
from pipeline.collectives import global_sum
from pipeline.config import Recipe
from pipeline.loop import evaluate_epoch, train_epoch
from pipeline.metrics import Scores
from pipeline.models.registry import build_model
from pipeline.progress import Progress
from pipeline.run import append_history
from pipeline.step import Step
from pipeline.tracking import RunLogger
from preprocessing.config import validate

TIE_WEIGHT = 1e-6
"""Weight of the cross entropy in the selection score: it only separates epochs of equal UAR."""


class LostRowsError(RuntimeError):
    """The validation counts do not add up to the number of clips."""


def train_worker(config: dict[str, Any]) -> None:
    """Train one replica; `config` is what `pipeline.train` puts together."""
    recipe = validate(Recipe, config["recipe"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    torch.manual_seed(recipe.seed)
    classes: list[str] = config["classes"]
    data = recipe.data
    checkpoint = ray.train.get_checkpoint()
    model = build_model(
        recipe.model,
        classes=len(classes),
        frames=data.frames,
        image_px=data.image_px,
        pretrained=checkpoint is None,
    )
    steps = steps_per_epoch(sum(config["train_counts"]), world, data.batch_size)
    step = Step(ray.train.torch.prepare_model(model), recipe, config["train_counts"], steps)
    start_epoch = _resume(checkpoint, model, step)
    batches = {
        name: ClipBatches(
            ray.train.get_dataset_shard(name),
            classes,
            data,
            cached=config["cached"],
            shuffle=name == "train",
            seed=recipe.seed,
        )
        for name in ("train", "val")
    }
    logger = RunLogger(config["run_id"], recipe, Path(config["folder"])) if rank == 0 else None
    progress = Progress(Path(config["folder"]), recipe.optim.epochs, steps) if rank == 0 else None
    for epoch in range(start_epoch, recipe.optim.epochs):
        facts = _epoch(recipe, step, batches, epoch, rank, device, classes, config["val_size"], progress)
        if logger is not None:
            append_history(Path(config["folder"]), facts)
            logger.log_metrics(_numbers(facts), step=epoch)
            logger.flush()
        _report(model, step, facts, rank)
    if logger is not None:
        logger.close()


def _resume(checkpoint: ray.train.Checkpoint | None, model: nn.Module, step: Step) -> int:
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        state, facts = load_checkpoint(Path(folder), model)
    step.load_state_dict(state)
    return facts["epoch"] + 1


def _epoch(
    recipe: Recipe,
    step: Step,
    batches: dict[str, ClipBatches],
    epoch: int,
    rank: int,
    device: torch.device,
    classes: list[str],
    val_size: int,
    progress: Progress | None,
) -> dict[str, Any]:
    """One epoch of training and exact validation; the facts of its checkpoint."""
    seed = int(np.random.SeedSequence((recipe.seed, epoch, rank)).generate_state(1)[0])
    torch.manual_seed(seed)
    started = time.perf_counter()
    on_step: Callable[[int], None] | None = progress.step if progress else None
    scalars, counts, _ = train_epoch(
        step,
        batches["train"].epoch(epoch),
        recipe,
        first_step=epoch * step.steps_per_epoch,
        device=device,
        generator=torch.Generator().manual_seed(seed),
        on_step=on_step,
    )
    train_seconds = time.perf_counter() - started
    val_counts, val_loss = evaluate_epoch(step.module, batches["val"].epoch(epoch), len(classes), device)
    train_scores = Scores.from_counts(global_sum(counts), classes)
    val_scores = Scores.from_counts(global_sum(val_counts), classes)
    if val_scores.samples != val_size:
        raise LostRowsError(f"epoch {epoch}: {val_scores.samples} of {val_size} validation clips were counted")
    val_ce = float(global_sum(val_loss)) / val_size
    facts = {f"train_{name}": value for name, value in scalars.items()} | {
        "epoch": epoch,
        "train_uar": train_scores.uar,
        "train_war": train_scores.war,
        "train_clips_per_s": train_scores.samples / train_seconds,
        "val_uar": val_scores.uar,
        "val_war": val_scores.war,
        "val_ce": val_ce,
        "val_select": val_scores.uar - TIE_WEIGHT * min(val_ce, 1e3),
        "trained_parameters": sum(p.numel() for p in step.module.parameters() if p.requires_grad),
        "total_parameters": sum(p.numel() for p in step.module.parameters()),
    }
    if progress:
        progress.epoch(epoch, facts)
    return facts


def _numbers(facts: dict[str, Any]) -> dict[str, float]:
    constant = ("epoch", "trained_parameters", "total_parameters", "val_select")
    return {name.replace("_", "/", 1): float(value) for name, value in facts.items() if name not in constant}


def _report(model: nn.Module, step: Step, facts: dict[str, Any], rank: int) -> None:
    """Every rank reports, rank 0 brings the checkpoint."""
    if rank != 0:
        ray.train.report(facts)
        return
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), model, step.state_dict(), facts)
        ray.train.report(
            facts,
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_dir_name=f"epoch-{facts['epoch']:04d}",
        )
