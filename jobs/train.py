"""python -m jobs.train recipe.yaml key=value ...: train a model on a shard set with Ray Train."""

from pathlib import Path
from typing import Any

from jobs.command import console, recipe_arguments, run, start_ray
from pipeline.config import Recipe, load_recipe


def main(arguments: list[str] | None = None) -> None:
    """Train, validate, test and track the model of a recipe; the same run name continues an interrupted run."""
    parsed = recipe_arguments("train", main.__doc__ or "").parse_args(arguments)
    recipe = load_recipe(parsed.recipe, parsed.overrides)
    if parsed.dry_run:
        print_plan(recipe)
    else:
        train(recipe)


def print_plan(recipe: Recipe) -> None:
    """Print the data and the resources that a run would take."""
    from pipeline.train import cpus_needed, plan

    shard_set, split = plan(recipe)
    console.print(f"shards   {shard_set.path}")
    for name in ("train", "val", "test"):
        console.print(f"{name:<8} {len(split.part(name))} clips")
    console.print(f"classes  {', '.join(split.classes)}")
    console.print(f"workers  {recipe.run.workers}, {cpus_needed(recipe):g} CPUs with those for data")
    for warning in split.warnings:
        console.print(f"warning: {warning}")


def train(recipe: Recipe) -> dict[str, Any]:
    """Train the recipe's model; returns the content of result.json."""
    from pipeline.train import train as fit

    result = fit(recipe, start_ray)
    console.print(
        f"{result['run']}: {result['part']} UAR {result['uar']:.3f}, WAR {result['war']:.3f} "
        f"(chance {result['chance']:.3f}), best epoch {result['best_epoch'] + 1} of {result['epochs']}, "
        f"{result['trained_parameters']:,} of {result['total_parameters']:,} parameters trained"
    )
    for warning in result["warnings"]:
        console.print(f"warning: {warning}")
    console.print(f"run      {Path(result['bundle']).parent}\nfigures  {result['confusion_matrix']}")
    return result


if __name__ == "__main__":
    run(main)
