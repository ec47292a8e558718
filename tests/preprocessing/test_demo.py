"""The demo's data: a tree that the DFEW reader reads, deterministic, resumable, with faces that show expressions."""

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest

from preprocessing.config import DatasetSettings
from preprocessing.datasets import demo, demo_face, read
from preprocessing.datasets.demo import CLIP_PX, DemoError, DemoSummary, render
from preprocessing.faces.centerface import CenterFace
from preprocessing.labels import EMOTIONS

PARAMETERS = {"seed": 3, "subjects": 5}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> DemoSummary:
    return render(tmp_path_factory.mktemp("demo") / "DFEW", **PARAMETERS)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def bad_clips(root: Path) -> dict[str, Path]:
    facts = json.loads((root / "demo.json").read_text(encoding="utf-8"))
    return {kind: root / "Clip" / "original" / f"{number}.mp4" for number, kind in facts["bad"].items()}


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def good_paths(root: Path) -> list[Path]:
    return sorted(set((root / "Clip" / "original").glob("*.mp4")) - set(bad_clips(root).values()))


def test_folds_partition_the_clips_and_share_no_subject(rendered: DemoSummary) -> None:
    subjects = {row["video_name"]: row["subject"] for row in rows(rendered.root / "subjects.csv")}
    tested: list[str] = []
    for fold in range(1, 6):
        train, test = (
            {row["video_name"] for row in rows(rendered.root / "EmoLabel_DataSplit" / name / f"set_{fold}.csv")}
            for name in ("train(single-labeled)", "test(single-labeled)")
        )
        assert train | test == set(subjects)
        assert not {subjects[n] for n in train} & {subjects[n] for n in test}
        tested += test
    assert sorted(tested) == sorted(subjects)


def test_the_dfew_reader_reads_every_clip_with_its_label(rendered: DemoSummary) -> None:
    samples = read(DatasetSettings(reader="dfew", root=str(rendered.root))).table.to_pylist()
    assert len(samples) == rendered.clips == 5 * 7 + 4
    bad = {str(path) for path in bad_clips(rendered.root).values()}
    good = sorted((s["subject"], s["label"]) for s in samples if s["uris"][0] not in bad)
    assert good == sorted((f"s{n:02d}", label) for n in range(5) for label in EMOTIONS)


def test_bad_clips_are_bad_in_four_ways(rendered: DemoSummary) -> None:
    paths = bad_clips(rendered.root)
    assert set(paths) == set(demo.BAD)
    assert paths["empty"].stat().st_size == 0
    assert paths["truncated"].read_bytes()[4:8] == b"ftyp"
    for kind in ("truncated", "empty", "text"):
        with pytest.raises(av.FFmpegError):
            decode(paths[kind])
    assert not any(CenterFace().detect(decode(paths["no_face"])[::6]))


def test_one_face_is_found_in_good_clips(rendered: DemoSummary) -> None:
    detector, found = CenterFace(), []
    for path in good_paths(rendered.root):
        frames = decode(path)
        assert frames[0].shape == (CLIP_PX, CLIP_PX, 3)
        found += [len(faces) for faces in detector.detect(frames[::12])]
    assert np.mean([count == 1 for count in found]) >= 0.95


def test_the_same_seed_gives_the_same_bytes_also_after_an_interruption(rendered: DemoSummary, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(tmp_path / "again", progress=interrupt, **PARAMETERS)
    assert not (tmp_path / "again" / "demo.json").exists()
    again = render(tmp_path / "again", processes=1, **PARAMETERS)
    files = [p.relative_to(rendered.root) for p in sorted(rendered.root.rglob("*")) if p.is_file()]
    assert len(files) == rendered.clips + 13
    for name in files:
        assert (again.root / name).read_bytes() == (rendered.root / name).read_bytes(), name


def test_a_complete_set_is_left_alone(rendered: DemoSummary) -> None:
    before = {p: p.stat().st_mtime_ns for p in rendered.root.rglob("*")}
    again = render(rendered.root, **PARAMETERS)
    assert not again.rendered
    assert {p: p.stat().st_mtime_ns for p in rendered.root.rglob("*")} == before


def test_other_parameters_and_foreign_folders_are_refused(rendered: DemoSummary, tmp_path: Path) -> None:
    with pytest.raises(DemoError, match=r"holds demo data of .*'seed': 3.*give another folder or remove it"):
        render(rendered.root, seed=4, subjects=5)
    (tmp_path / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(DemoError, match="in use for something else"):
        render(tmp_path, **PARAMETERS)
    with pytest.raises(DemoError, match="subjects = 4: at least 5"):
        render(tmp_path / "x", subjects=4)


def test_another_seed_shows_other_people() -> None:
    one, two = (demo._subject(np.random.default_rng((seed, 2, 0))) for seed in (0, 1))
    assert np.abs(one.picture.astype(int) - two.picture).mean() > 2


@pytest.mark.parametrize("label", [label for label in EMOTIONS if label != "neutral"])
def test_an_expression_changes_the_face_and_not_the_rest(label: str) -> None:
    portrait = demo_face.portrait()
    calm = demo_face.show(portrait, demo_face.pose("neutral")).astype(int)
    change = np.abs(demo_face.show(portrait, demo_face.pose(label)) - calm)[..., :3].mean(-1)
    face = change[95:215, 80:190].mean()
    assert face > 3
    assert change[:60].mean() < 0.1 * face
    assert change[225:].mean() < 0.1 * face


def test_an_expression_rises_and_falls() -> None:
    course = demo._course(np.random.default_rng(5), 40)
    assert course[0] == course[-1] == 0
    assert course.max() > 0.9
