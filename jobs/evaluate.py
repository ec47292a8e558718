"""python -m jobs.evaluate run=<run> ...: score a trained model on a part of a shard set, each clip once."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from jobs.command import console, run, settings_arguments, start_ray
from preprocessing.config import Settings


class EvaluateSettings(Settings):
    """What to score, on what."""

    run: str
    """Run folder, bundle folder or MLflow run id."""
    shards: str | None = None
    """Shard set to score on; default: the one that the run's recipe names."""
    split: str | None = None
    """Split of the shard set; default: the run's own."""
    part: Literal["train", "val", "test"] = "test"
    workers: int = Field(default=1, ge=1)
    """Model replicas."""
    out: str | None = None
    """Folder for predictions, figure and result.json; default: <run folder>/evaluation."""
    tracking_uri: str | None = None
    """MLflow server or database that knows the run id."""


def main(arguments: list[str] | None = None) -> None:
    """Score a trained model on train, val or test of a shard set."""
    evaluate(settings_arguments("evaluate", main.__doc__ or "", EvaluateSettings, arguments))


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Score and write predictions.parquet, confusion_matrix.png and result.json; returns the result."""
    from pipeline import figures
    from pipeline.checkpoint import read_bundle
    from pipeline.data import read_index
    from pipeline.evaluate import evaluate as score_clips
    from pipeline.run import write_result
    from pipeline.split import assign
    from pipeline.tracking import download_bundle
    from preprocessing.shards import ShardSet, shard_set_path

    bundle = download_bundle(settings.run, settings.tracking_uri)
    recipe, facts, _ = read_bundle(bundle)
    shard_set = ShardSet.open(Path(settings.shards) if settings.shards else shard_set_path(recipe.preprocess))
    data = recipe.data.model_copy(update={"split": settings.split} if settings.split else {})
    ids = assign(read_index(shard_set), data, recipe.seed).part(settings.part)
    start_ray(settings.workers + 1)
    outcome = score_clips(bundle, shard_set, ids, workers=settings.workers)
    folder = Path(settings.out) if settings.out else bundle.parent / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    outcome.predictions.to_parquet(folder / "predictions.parquet")
    picture = figures.save(figures.confusion_matrix(outcome.scores), folder / "confusion_matrix.png")
    result = {"run": settings.run, "part": settings.part, "scores": outcome.scores.to_dict(), "figure": str(picture)}
    write_result(folder, result | {"same_shards_as_training": shard_set.fingerprint == facts.shard_fingerprint})
    console.print(
        f"{settings.part}: UAR {outcome.scores.uar:.3f}, WAR {outcome.scores.war:.3f} on {len(ids)} clips; {folder}"
    )
    return result


if __name__ == "__main__":
    run(main)
