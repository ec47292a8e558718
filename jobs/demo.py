"""python -m jobs.demo: the whole pipeline on rendered data, from raw videos to predictions."""

import time
from pathlib import Path
from typing import Any

from pydantic import Field

from jobs.command import console, run, settings_arguments, start_ray
from pipeline.config import Recipe, load_recipe
from preprocessing.config import Settings

RECIPES = Path(__file__).parent / "recipes"
MODELS = ("hdf", "hkafer")
PREDICTED_CLIPS = 8


class DemoSettings(Settings):
    """Size and place of the demo."""

    seed: int = Field(default=0, ge=0)
    """Seed of the rendered clips and of the training."""
    dir: str = "runs/demo"
    """Everything that the demo makes lies in here."""
    subjects: int = Field(default=15, ge=10)
    """Synthetic people; each shows the seven expressions once."""
    workers: int = Field(default=1, ge=1)
    """Training workers."""


def main(arguments: list[str] | None = None) -> None:
    """Render, preprocess, train HDF and HKAFER, evaluate and predict; what is finished already is kept."""
    demo(settings_arguments("demo", main.__doc__ or "", DemoSettings, arguments))


def demo(settings: DemoSettings) -> dict[str, Any]:
    """Run the demo; returns the content of result.json."""
    from pipeline.run import write_result
    from pipeline.train import cpus_needed

    started = time.perf_counter()
    recipes = {name: demo_recipe(name, settings) for name in MODELS}
    start_ray(max(cpus_needed(recipe) for recipe in recipes.values()))
    stages = [_render(settings), _preprocess(recipes["hdf"])]
    trained = {name: _train(recipe) for name, recipe in recipes.items()}
    predicted = {name: _predict(result, recipes[name]) for name, result in trained.items()}
    seconds = time.perf_counter() - started
    _print(stages, trained, predicted, settings, seconds)
    result = {"seed": settings.seed, "seconds": round(seconds, 1), "stages": stages, "models": trained}
    write_result(Path(settings.dir) / f"seed{settings.seed}", result)
    return result


def demo_recipe(model: str, settings: DemoSettings) -> Recipe:
    """The demo's recipe of a model, with the demo's paths and seed."""
    folder = Path(settings.dir)
    return load_recipe(
        RECIPES / f"demo_{model}.yaml",
        [
            f"seed={settings.seed}",
            f"preprocess.dataset.root={_data_root(settings)}",
            f"preprocess.dataset.name=demo-seed{settings.seed}",
            f"preprocess.out={folder / 'shards'}",
            f"run.dir={folder}",
            f"run.name=demo-{model}-seed{settings.seed}",
            f"run.workers={settings.workers}",
        ],
    )


def _data_root(settings: DemoSettings) -> Path:
    return Path(settings.dir) / f"seed{settings.seed}" / "DFEW"


def _render(settings: DemoSettings) -> dict[str, Any]:
    from rich.progress import Progress

    from pipeline.progress import columns
    from preprocessing.datasets.demo import render

    console.rule("1  render a labelled video set (DFEW's layout)")
    with Progress(*columns(), console=console) as bar:
        task = bar.add_task("render", total=None, text="")
        summary = render(
            _data_root(settings),
            seed=settings.seed,
            subjects=settings.subjects,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        bar.update(task, total=summary.clips, completed=summary.clips)
    state = f"{summary.clips} clips rendered" if summary.rendered else f"{summary.clips} clips are there already"
    console.print(f"{state}, {summary.bad} of them bad on purpose: {_data_root(settings)}")
    return {"stage": "render", "clips": summary.clips, "seconds": summary.seconds}


def _preprocess(recipe: Recipe) -> dict[str, Any]:
    from jobs.preprocess import preprocess

    console.rule("2  find and align faces, write shards")
    result = preprocess(recipe)
    return {"stage": "preprocess", **result}


def _train(recipe: Recipe) -> dict[str, Any]:
    from jobs.train import train

    console.rule(
        f"{3 + MODELS.index(recipe.model.name)}  train {recipe.model.name.upper()}, test it on unseen subjects"
    )
    return train(recipe)


def _predict(result: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Predict raw test videos, the broken ones among them."""
    from pipeline.predict import Predictor
    from preprocessing.datasets import read

    console.rule(f"predict raw videos with {result['model'].upper()}")
    samples = [
        s for s in read(recipe.preprocess.dataset).table.to_pylist() if f"{recipe.data.split}/test" in s["splits"]
    ]
    started = time.perf_counter()
    with Predictor(result["bundle"]) as predictor:
        rows = list(predictor.predict(samples))
    seconds = time.perf_counter() - started
    labels = {s["sample_id"]: s["label"] for s in samples}
    for row in rows[:PREDICTED_CLIPS]:
        verdict = (
            row["error"] or f"{row['emotion']:<9} p={row['probability']:.2f}  (labelled {labels[row['sample_id']]})"
        )
        console.print(f"  {Path(row['uri']).name:<9} {verdict}")
    bad = [row for row in rows if row["error"]]
    console.print(f"  ... {len(rows) - len(bad)} of {len(rows)} predicted, {len(bad)} refused")
    for row in bad:
        console.print(f"  {Path(row['uri']).name:<9} {row['error']}")
    return {"clips": len(rows), "clips_per_s": len(rows) / seconds}


def _print(
    stages: list[dict[str, Any]],
    trained: dict[str, dict[str, Any]],
    predicted: dict[str, dict[str, Any]],
    settings: DemoSettings,
    seconds: float,
) -> None:
    from rich.table import Table

    console.rule("result")
    table = Table("model", "UAR", "WAR", "chance", "trained parameters", "train clips/s", "predict clips/s")
    for name, result in trained.items():
        table.add_row(
            name.upper(),
            f"{result['uar']:.3f}",
            f"{result['war']:.3f}",
            f"{result['chance']:.3f}",
            f"{result['trained_parameters']:,} of {result['total_parameters']:,}",
            f"{result['train_clips_per_s']:.1f}",
            f"{predicted[name]['clips_per_s']:.1f}",
        )
    console.print(table)
    shards = stages[-1]
    console.print(
        f"preprocessing {shards['clips_per_s']:.1f} clips/s; UAR and WAR on subjects that were not trained on"
    )
    console.print(f"whole demo    {seconds:.0f} s")
    console.print(f"aligned faces {shards['contact_sheet']}")
    for name, result in trained.items():
        console.print(f"{name.upper():<13} {result['confusion_matrix']}")
    console.print("all runs      make mlflow   (pages on http://127.0.0.1:5000/#/experiments)")
    bundle = next(iter(trained.values()))["bundle"]
    console.print(f"your video    python -m jobs.predict run={Path(bundle).parent} input=<video, image or folder>")


if __name__ == "__main__":
    run(main)
