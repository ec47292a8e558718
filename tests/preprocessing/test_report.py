"""Contact sheet and summary show what is in the set, whatever its size."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pyarrow as pa
from shard_rows import clip, samples, settings, shard_set

from preprocessing.labels import EMOTIONS
from preprocessing.parts import commit, make_plan, planned_samples, write_part
from preprocessing.report import GAP_PX, LABEL_PX, NO_FACE_RGB, TILE_PX, TITLE_PX, contact_sheet, summary
from preprocessing.shards import shard_set_path

COLOURS = {"happy": (40, 200, 240), "sad": (220, 80, 30)}  # BGR


def coloured_set(out: Path, counts: dict[str, int], found: bool = True, **more: object) -> Path:
    """A set whose crops have one colour per class."""
    chosen = settings(out, **more)
    folder = shard_set_path(chosen)
    tables = [samples([f"{label}{i:04d}" for i in range(n)], label) for label, n in counts.items()]
    plan = make_plan(folder, pa.concat_tables(tables).sort_by("sample_id"), 64)
    for part in sorted(set(plan["part"].to_pylist())):
        clips = [clip(s, 4, COLOURS.get(s["label"], (99, 99, 99))) for s in planned_samples(folder, part)]
        write_part(folder, part, (row | {"face_found": [found] * 4} for row in clips))
    commit(folder, plan, chosen, {})
    return folder


def tiles(png: Path, row: int, columns: int) -> list[np.ndarray]:
    """The tiles of a row of the sheet, uint8 RGB."""
    sheet = (matplotlib.image.imread(png)[..., :3] * 255).round().astype(int)
    top = TITLE_PX + row * (TILE_PX + GAP_PX)
    lefts = [LABEL_PX + i * (TILE_PX + GAP_PX) for i in range(columns)]
    return [sheet[top : top + TILE_PX, left : left + TILE_PX] for left in lefts]


def is_colour(tile: np.ndarray, rgb: tuple[int, int, int]) -> bool:
    return bool(np.abs(tile[20:-20, 20:-20] - rgb).max() < 12)


def test_each_class_has_its_row(tmp_path: Path) -> None:
    png = contact_sheet(coloured_set(tmp_path, {"happy": 7, "sad": 5}), tmp_path / "sheet.png", per_class=5)
    assert all(is_colour(tile, COLOURS["happy"][::-1]) for tile in tiles(png, 0, 5))
    assert all(is_colour(tile, COLOURS["sad"][::-1]) for tile in tiles(png, 1, 5))
    height, width = matplotlib.image.imread(png).shape[:2]
    assert abs(height - TITLE_PX - 2 * (TILE_PX + GAP_PX)) <= 1
    assert abs(width - LABEL_PX - 5 * (TILE_PX + GAP_PX)) <= 1


def test_few_clips_show_several_frames_each(tmp_path: Path) -> None:
    png = contact_sheet(coloured_set(tmp_path, {"happy": 2}), tmp_path / "sheet.png", per_class=6)
    assert all(is_colour(tile, COLOURS["happy"][::-1]) for tile in tiles(png, 0, 6))


def test_frames_without_a_face_are_marked_unless_none_was_looked_for(tmp_path: Path) -> None:
    def borders(aligner: str) -> list[int]:
        folder = coloured_set(tmp_path / aligner, {"sad": 3}, found=False, faces={"aligner": aligner})
        png = contact_sheet(folder, tmp_path / f"{aligner}.png", per_class=3)
        return [int(np.abs(tile[2, 10:-10] - NO_FACE_RGB).max()) for tile in tiles(png, 0, 3)]

    assert max(borders("centerface")) < 12
    assert min(borders("none")) > 12


def test_any_set_can_be_drawn(tmp_path: Path) -> None:
    """Eight classes and none at all."""
    every = coloured_set(tmp_path / "all", dict.fromkeys([*EMOTIONS, "contempt", ""], 1))
    assert matplotlib.image.imread(contact_sheet(every, tmp_path / "all.png")).shape[0] > 9 * TILE_PX
    nothing = shard_set(tmp_path / "none", samples("ab"), rejected="ab")
    assert contact_sheet(nothing, tmp_path / "none.png").exists()


def test_the_summary_counts_by_split_and_class(tmp_path: Path) -> None:
    text = summary(coloured_set(tmp_path, {"happy": 7, "sad": 1200}))
    assert text.splitlines()[0] == "1,207 clips, 0 rejects; a face in 100.0% of 4,828 frames"
    assert text.splitlines()[1].split() == ["happy", "sad", "sum"]
    assert text.splitlines()[2].split() == ["all", "7", "1,200", "1,207"]
    assert text.splitlines()[3].split() == ["fold1/train", "7", "1,200", "1,207"]


def test_the_summary_lists_rejects_with_an_example(tmp_path: Path) -> None:
    text = summary(shard_set(tmp_path, samples("abc"), rejected="ac"))
    assert "rejected 2 no_face: e.g. no_face here" in text
    everything = summary(shard_set(tmp_path / "none", samples("ab"), rejected="ab"))
    assert everything.splitlines()[0] == "0 clips, 2 rejects; a face in 0.0% of 0 frames"
