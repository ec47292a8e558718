"""Real videos and images through the same commands; skipped where the material is not present."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import SMALL, run

pytestmark = pytest.mark.real


def build(real_data: Path, folder: Path, source: str, *more: str) -> tuple[list[dict], list[dict]]:
    """Preprocess a folder of the real material; its clip rows and reject rows."""
    out = folder / source.replace("/", "-")
    root = f"preprocess.dataset.root={real_data / source}"
    run(
        "preprocess",
        "jobs/recipes/hdf_folder.yaml",
        root,
        f"preprocess.out={out}",
        "preprocess.sampling.frames=4",
        *more,
    )
    (shards,) = (out / "clips").iterdir()
    rejects = shards / "rejects"
    clips = pq.read_table(shards / "parts").to_pylist()
    return clips, pq.read_table(rejects).to_pylist() if rejects.exists() else []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on rendered faces: what it says of real ones is not judged, only that it says it."""
    from preprocessing.datasets.demo import render

    folder = tmp_path_factory.mktemp("trained")
    render(folder / "DFEW", seed=1, subjects=5)
    places = [f"preprocess.dataset.root={folder / 'DFEW'}", f"preprocess.out={folder / 'shards'}", f"run.dir={folder}"]
    run("preprocess", "jobs/recipes/demo_hdf.yaml", *SMALL, *places)
    run("train", "jobs/recipes/demo_hdf.yaml", *SMALL, *places, "run.name=hdf", "optim.epochs=1")
    return folder / "hdf"


def test_labelled_videos_become_clips_of_their_classes(real_data: Path, tmp_path: Path) -> None:
    clips, rejects = build(real_data, tmp_path, "videos/labelled7", "data.frames=4")
    assert not rejects
    assert sorted(c["label"] for c in clips) == ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    assert all(all(c["face_found"]) and len(c["frames"]) == 4 for c in clips)


@pytest.mark.parametrize(
    ("source", "predicted", "refused"),
    [("videos/expressive", 7, 0), ("videos/labelled7", 7, 0), ("videos/gaps", 2, 0), ("images/faces", 2, 1)],
)
def test_real_media_are_predicted(
    real_data: Path, trained: Path, tmp_path: Path, source: str, predicted: int, refused: int
) -> None:
    out = tmp_path / "rows.json"
    said = run("predict", f"run={trained}", f"input={real_data / source}", f"out={out}")
    assert f"{predicted} of {predicted + refused} predicted" in said
    rows = json.loads(out.read_text(encoding="utf-8"))
    good = [row for row in rows if row["error"] is None]
    assert len(good) == predicted
    assert all(sum(v for k, v in row.items() if k.startswith("p_")) == pytest.approx(1, abs=1e-3) for row in good)
    assert all("no_face" in row["error"] for row in rows if row["error"])
