"""The demo's data: a tree that the DFEW reader reads, deterministic, resumable, with faces that show expressions."""

import csv
import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from preprocessing.config import DatasetSettings
from preprocessing.datasets import demo, demo_portrait, read
from preprocessing.datasets.demo import DemoError, DemoSummary, render
from preprocessing.datasets.demo_clip import CLIP_PX, FRAMES, Puppet, film
from preprocessing.datasets.demo_expression import EXPRESSIONS, RELAXED, STEP_PX, fields
from preprocessing.datasets.demo_portrait import ORIGIN
from preprocessing.datasets.demo_subject import FACE_X, FACE_Y, Subject
from preprocessing.faces.centerface import CenterFace
from preprocessing.labels import EMOTIONS

PARAMETERS = {"seed": 3, "subjects": 5, "expressions": ("surprise",)}
STILL = np.array([[1, 0, FACE_X - CLIP_PX / 2], [0, 1, FACE_Y - CLIP_PX / 2]])
"""A head that stands in the middle of the picture."""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> DemoSummary:
    return render(tmp_path_factory.mktemp("demo") / "DFEW", processes=1, **PARAMETERS)


@pytest.fixture(scope="module")
def person() -> Subject:
    return demo._person(0, 1)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def bad_clips(root: Path) -> dict[int, str]:
    facts = json.loads((root / "demo.json").read_text(encoding="utf-8"))
    return {int(number): kind for number, kind in facts["bad"].items()}


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_the_summary_counts_what_is_there(rendered: DemoSummary) -> None:
    clips = list((rendered.root / "Clip" / "original").iterdir())
    assert {p.name for p in clips} == {f"{n}.mp4" for n in range(1, rendered.clips + 1)}
    assert rendered.rendered
    assert (rendered.clips, rendered.bad, rendered.subjects) == (5 + 4, 4, 5)


def test_folds_partition_the_clips_and_share_no_subject(rendered: DemoSummary) -> None:
    subjects = {row["video_name"]: row["subject"] for row in rows(rendered.root / "subjects.csv")}
    tested = []
    for fold in range(1, 6):
        train, test = (
            rows(rendered.root / "EmoLabel_DataSplit" / f"{part}(single-labeled)" / f"set_{fold}.csv")
            for part in ("train", "test")
        )
        names = [{row["video_name"] for row in part} for part in (train, test)]
        assert names[0] | names[1] == set(subjects)
        assert not {subjects[n] for n in names[0]} & {subjects[n] for n in names[1]}
        assert {row["label"] for row in (*train, *test)} == {"5"}
        tested += names[1]
    assert sorted(tested) == sorted(subjects)


def test_the_dfew_reader_reads_it(rendered: DemoSummary) -> None:
    samples = read(DatasetSettings(reader="dfew", root=str(rendered.root))).table.to_pylist()
    assert len(samples) == rendered.clips
    bad = bad_clips(rendered.root)
    good = [s for s in samples if int(Path(s["uris"][0]).stem) not in bad]
    assert sorted((s["subject"], s["label"]) for s in good) == [(f"s{n:02d}", "surprise") for n in range(5)]


def test_good_clips_are_h264_of_the_promised_size(rendered: DemoSummary) -> None:
    lengths = set()
    for number in sorted(set(range(1, rendered.clips + 1)) - set(bad_clips(rendered.root))):
        frames = decode(rendered.root / "Clip" / "original" / f"{number}.mp4")
        assert FRAMES[0] <= len(frames) <= FRAMES[1]
        assert frames[0].shape == (CLIP_PX, CLIP_PX, 3)
        lengths.add(len(frames))
    assert len(lengths) > 1


def test_bad_clips_are_bad_in_four_ways(rendered: DemoSummary) -> None:
    paths = {kind: rendered.root / "Clip" / "original" / f"{n}.mp4" for n, kind in bad_clips(rendered.root).items()}
    assert set(paths) == {"truncated", "no_face", "empty", "text"}
    assert paths["empty"].stat().st_size == 0
    assert paths["truncated"].read_bytes()[4:8] == b"ftyp"
    for kind in ("truncated", "empty", "text"):
        with pytest.raises(av.FFmpegError):
            decode(paths[kind])
    assert not any(CenterFace().detect(decode(paths["no_face"])[::6]))


def test_one_face_is_found_in_good_clips(rendered: DemoSummary) -> None:
    detector, bad, found = CenterFace(), bad_clips(rendered.root), []
    for number in sorted(set(range(1, rendered.clips + 1)) - set(bad)):
        frames = decode(rendered.root / "Clip" / "original" / f"{number}.mp4")
        found += [len(faces) for faces in detector.detect(frames[::12])]
    assert np.mean([count == 1 for count in found]) >= 0.95


def test_an_interrupted_rendering_is_completed_to_the_same_bytes(rendered: DemoSummary, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(tmp_path / "again", processes=1, progress=interrupt, **PARAMETERS)
    assert not (tmp_path / "again" / "demo.json").exists()
    steps: list[tuple[int, int]] = []
    again = render(tmp_path / "again", processes=2, progress=lambda *step: steps.append(step), **PARAMETERS)
    assert files(again.root) == files(rendered.root)
    assert steps[-1] == (rendered.clips, rendered.clips)


def test_a_complete_set_is_left_alone(rendered: DemoSummary) -> None:
    before = {p: p.stat().st_mtime_ns for p in rendered.root.rglob("*")}
    again = render(rendered.root, **PARAMETERS)
    assert not again.rendered
    assert (again.clips, again.bad) == (rendered.clips, rendered.bad)
    assert {p: p.stat().st_mtime_ns for p in rendered.root.rglob("*")} == before


@pytest.mark.parametrize("change", [{"seed": 4}, {"subjects": 6}, {"expressions": ("happy",)}])
def test_other_parameters_in_the_same_folder_are_refused(rendered: DemoSummary, change: dict) -> None:
    before = files(rendered.root)
    with pytest.raises(DemoError, match=r"holds demo data of .*'seed': 3.*give another folder or remove this one"):
        render(rendered.root, **PARAMETERS | change)
    assert files(rendered.root) == before


def test_another_seed_shows_other_people() -> None:
    assert not np.array_equal(demo._person(0, 1).layers.upper, demo._person(1, 1).layers.upper)
    assert demo._plan(0, 5, EMOTIONS) != demo._plan(1, 5, EMOTIONS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"subjects": 4}, "subjects = 4: at least 5"),
        ({"expressions": ("smug",)}, r"expressions = \['smug'\]: name some of happy, sad"),
        ({"seed": -1}, "seed = -1: must not be negative"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_written(tmp_path: Path, wrong: dict, message: str) -> None:
    with pytest.raises(DemoError, match=message):
        render(tmp_path / "demo", **PARAMETERS | wrong)
    assert not (tmp_path / "demo").exists()


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(DemoError, match="is in use for something else: give an empty folder"):
        render(tmp_path, **PARAMETERS)
    assert files(tmp_path) == {"thesis.tex": b"mine"}


def test_landmarks_move_as_told_and_mirrored() -> None:
    moved = fields({"corner": [(3.0, -2.0)]})
    for (x, y), told in (((202, 139), (3, -2)), ((243.5, 139.9), (-3, -2))):
        at = (np.array([[[x, y]]]) - ORIGIN - (STEP_PX - 1) / 2) / STEP_PX
        for layer in (moved.upper, moved.lower):
            value = cv2.remap(layer, at.astype(np.float32), None, cv2.INTER_LINEAR)[0, 0]
            np.testing.assert_allclose(value, told, atol=0.5)
    assert np.abs(moved.inner).max() == 0


@pytest.mark.parametrize("label", [label for label in EMOTIONS if label != "neutral"])
def test_an_expression_changes_brows_eyes_and_mouth_most(person: Subject, label: str) -> None:
    room = np.full((CLIP_PX, CLIP_PX, 3), 128, np.uint8)
    puppet, rest = Puppet(person.layers, person.with_creases(label, 1.0)), fields(RELAXED)
    calm = puppet.draw(0.0, rest, STILL, room).astype(np.float32)
    shown = puppet.draw(1.0, rest.plus(fields(EXPRESSIONS[label]), 1.0), STILL, room)
    change = np.abs(shown - calm).mean(-1)
    offset = STILL[:, 2].astype(int)
    brows_and_eyes = change[84 - offset[1] : 112 - offset[1], 186 - offset[0] : 265 - offset[0]].mean()
    mouth = change[132 - offset[1] : 164 - offset[1], 198 - offset[0] : 250 - offset[0]].mean()
    hair = change[: 70 - offset[1]].mean()
    garment = change[205 - offset[1] :].mean()
    assert min(brows_and_eyes, mouth) > 3 * max(hair, garment)


def test_a_neutral_clip_differs_from_every_other_at_the_apex_only(person: Subject) -> None:
    calm, happy = (film(person, label, np.random.default_rng(5)) for label in ("neutral", "happy"))
    change = [np.abs(a.astype(int) - b).mean() for a, b in zip(calm, happy, strict=True)]
    assert max(change[0], change[-1]) < 0.1 * max(change)


def test_the_portrait_is_covered_but_for_mouth_and_eyes() -> None:
    portrait = demo_portrait.portrait()
    open_share = 1 - np.maximum(portrait.upper, portrait.lower)
    rows_open, columns_open = np.nonzero(open_share > 0.5)
    corners = demo_portrait.texels([(190, 95), (260, 150)])
    assert (columns_open.min(), rows_open.min()) > tuple(corners[0])
    assert (columns_open.max(), rows_open.max()) < tuple(corners[1])
