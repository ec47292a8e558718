"""python -m jobs.preprocess recipe.yaml key=value ...: a data set on disk to a shard set."""

from typing import Any

from jobs.command import console, recipe_arguments, run, start_ray
from pipeline.config import Recipe, load_recipe


def main(arguments: list[str] | None = None) -> None:
    """Build (or complete) the shard set of a recipe, with its contact sheet."""
    parsed = recipe_arguments("preprocess", main.__doc__ or "").parse_args(arguments)
    recipe = load_recipe(parsed.recipe, parsed.overrides)
    if parsed.dry_run:
        plan(recipe)
    else:
        preprocess(recipe)


def plan(recipe: Recipe) -> None:
    """Print what a build would read and write."""
    from preprocessing.datasets import read
    from preprocessing.shards import fingerprint

    manifest = read(recipe.preprocess.dataset)
    for warning in manifest.warnings:
        console.print(f"warning: {warning}")
    console.print(
        f"{manifest.table.num_rows} samples, shard set {fingerprint(recipe.preprocess)}; nothing was computed"
    )


def preprocess(recipe: Recipe) -> dict[str, Any]:
    """Build the shard set, draw its contact sheet, write result.json; returns the result of the last call with work."""
    from rich.progress import Progress

    from pipeline.progress import columns
    from pipeline.run import RESULT, read_result, write_result
    from preprocessing.build import build
    from preprocessing.report import CONTACT_SHEET, contact_sheet, summary

    with Progress(*columns(), console=console, transient=True) as bar:
        task = bar.add_task("preprocess", total=None, text="starting")

        def show(finished: int, total: int, rejects: int) -> None:
            bar.update(task, completed=finished, total=total, text=f"{rejects} rejected")

        report = build(recipe.preprocess, start_ray, show)
    for warning in report.warnings:
        console.print(f"note: {warning}")
    sheet = report.shard_set / CONTACT_SHEET
    if report.samples_done or not sheet.exists():
        contact_sheet(report.shard_set, sheet)
    if report.samples_done:
        console.print(f"{report.samples_done:,} samples in {report.seconds:.1f} s, {report.clips_per_s:.1f} a second")
    else:
        console.print(f"nothing to do: all {report.samples_skipped:,} samples are finished")
    console.print(summary(report.shard_set))
    console.print(f"shards        {report.shard_set}\ncontact sheet {sheet}")
    if report.samples_done or not (report.shard_set / RESULT).exists():
        write_result(report.shard_set, report.to_dict() | {"contact_sheet": str(sheet)})
    return read_result(report.shard_set)


if __name__ == "__main__":
    run(main)
