"""Exact evaluation of a bundle on a shard set: every clip once, whatever the number of workers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ray.data import ActorPoolStrategy

from pipeline.checkpoint import read_bundle
from pipeline.data import clip_dataset
from pipeline.metrics import Scores, confusion
from pipeline.predict import Predictor
from preprocessing.shards import ShardSet


class EvaluationError(RuntimeError):
    """Rows were lost or doubled on the way, or hold classes that the model does not know: there is no score."""


@dataclass(frozen=True)
class Evaluation:
    """Scores and the prediction of each clip (sample_id, label, predicted, p_<class>)."""

    scores: Scores
    predictions: pd.DataFrame


class _Scorer:
    """Ray Data actor that holds one model."""

    def __init__(self, bundle: str, gpu: bool) -> None:
        self.predictor = Predictor(bundle, "cuda" if gpu else "cpu")

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        probabilities = self.predictor.classify(batch["video"])
        classes = self.predictor.facts.classes
        columns = {f"p_{name}": probabilities[:, k] for k, name in enumerate(classes)}
        predicted = np.asarray([classes[k] for k in probabilities.argmax(1)], dtype=object)
        return {"sample_id": batch["sample_id"], "label": batch["label"], "predicted": predicted, **columns}


def evaluate(
    bundle: Path,
    shard_set: ShardSet,
    ids: list[str],
    *,
    workers: int = 1,
    gpu: bool = False,
    batch_size: int = 16,
) -> Evaluation:
    """Classify the given clips of a shard set.

    Args:
        ids: samples to evaluate, each counted exactly once.
        workers: model replicas.

    Raises:
        EvaluationError: the result does not hold exactly the ids asked for, or labels that the model lacks.
    """
    recipe, facts, _ = read_bundle(bundle)
    clips = clip_dataset(shard_set, ids, frames=recipe.data.frames, side_px=recipe.data.image_px)
    scored = clips.map_batches(
        _Scorer,
        fn_constructor_kwargs={"bundle": str(bundle), "gpu": gpu},
        batch_size=batch_size,
        compute=ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=1 if gpu else None,
    )
    table = scored.to_pandas().sort_values("sample_id", ignore_index=True)
    if table["sample_id"].tolist() != sorted(ids):
        raise EvaluationError(f"evaluation returned {len(table)} rows for {len(ids)} clips: run it again")
    return Evaluation(_score(table, facts.classes), table)


def _score(table: pd.DataFrame, classes: list[str]) -> Scores:
    strange = sorted(set(table["label"]) - set(classes))
    if strange:
        raise EvaluationError(f"the model knows {', '.join(classes)}; the clips also hold {', '.join(strange)}")
    probabilities = torch.from_numpy(table[[f"p_{name}" for name in classes]].to_numpy(np.float32))
    labels = torch.tensor([classes.index(name) for name in table["label"]])
    return Scores.from_counts(confusion(probabilities, labels), classes)
