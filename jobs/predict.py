"""python -m jobs.predict run=<run> input=<video, image or folder>: emotions of raw media."""

import json
from pathlib import Path
from typing import Any

from jobs.command import UsageError, console, run, settings_arguments
from preprocessing.config import Settings


class PredictSettings(Settings):
    """What to predict, with which model."""

    run: str
    """Run folder, bundle folder or MLflow run id."""
    input: str
    """A video, an image, or a folder of them (any depth)."""
    out: str | None = None
    """Also write the rows there: .json or .parquet by its ending; may be given as a,b for both."""
    tracking_uri: str | None = None
    """MLflow server or database that knows the run id."""


def main(arguments: list[str] | None = None) -> None:
    """Predict the emotion of raw videos and images through the clip path that the model was trained on."""
    predict(settings_arguments("predict", main.__doc__ or "", PredictSettings, arguments))


def predict(settings: PredictSettings) -> list[dict[str, Any]]:
    """Predict, print a table, write the files asked for; bad media become rows with an error."""
    outputs = [Path(name) for name in settings.out.split(",")] if settings.out else []
    for path in outputs:
        if path.suffix not in (".json", ".parquet"):
            raise UsageError(f"out={path}: the ending must be .json or .parquet")
    from rich.progress import Progress

    from pipeline.predict import Predictor
    from pipeline.progress import columns
    from pipeline.tracking import download_bundle
    from preprocessing.datasets.folder import list_media

    bundle = download_bundle(settings.run, settings.tracking_uri)
    samples = list_media(settings.input)
    rows = []
    with Predictor(bundle) as predictor, Progress(*columns(), console=console, transient=True) as bar:
        task = bar.add_task("predict", total=len(samples), text="")
        for row in predictor.predict(samples):
            rows.append(row)
            bar.update(task, advance=1, text=Path(row["uri"]).name)
    _print(rows)
    for path in outputs:
        _write(path, rows)
        console.print(f"wrote {path}")
    return rows


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("input", "emotion", "p", "second", "p", "face found", "frames")
    good = [row for row in rows if row["error"] is None]
    for row in good:
        ranked = sorted(((v, k[2:]) for k, v in row.items() if k.startswith("p_")), reverse=True)
        (p1, first), (p2, second) = ranked[:2]
        found = f"{row['face_found_share']:.0%}"
        table.add_row(Path(row["uri"]).name, first, f"{p1:.2f}", second, f"{p2:.2f}", found, str(row["frames"]))
    console.print(table)
    for row in rows:
        if row["error"] is not None:
            console.print(f"no prediction: {row['uri']}: {row['error']}")
    console.print(f"{len(good)} of {len(rows)} predicted")


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        import pandas as pd

        pd.DataFrame(rows).to_parquet(path, index=False)


if __name__ == "__main__":
    run(main)
