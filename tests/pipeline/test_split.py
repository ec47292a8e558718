"""Assignment of clips: published parts kept, cuts by subject or class, faults named."""

import pyarrow as pa
import pytest

from pipeline.config import DataSettings
from pipeline.split import SplitError, assign

LABELS = ("happy", "sad", "neutral")


def index(subjects: int = 6, known: bool = True, test_from: int = 4) -> pa.Table:
    rows = [
        {
            "sample_id": f"d/{s:02d}-{label}",
            "label": label,
            "subject": f"s{s}" if known else None,
            "splits": ["fold1/test" if s >= test_from else "fold1/train"],
        }
        for s in range(subjects)
        for label in LABELS
    ]
    return pa.Table.from_pylist(
        rows,
        schema=pa.schema(
            [
                ("sample_id", pa.string()),
                ("label", pa.string()),
                ("subject", pa.string()),
                ("splits", pa.list_(pa.string())),
            ]
        ),
    )


def test_val_takes_whole_subjects_and_parts_are_disjoint_and_complete() -> None:
    split = assign(index(), DataSettings(split="fold1", val_share=0.25), seed=3)
    assert len(split.val) == len(LABELS)
    assert len({i[:4] for i in split.val}) == 1
    assert sorted(split.train + split.val + split.test) == sorted(index()["sample_id"].to_pylist())
    assert not {i[:4] for i in split.train} & {i[:4] for i in split.val + split.test}
    assert split.classes == ["happy", "sad", "neutral"]
    assert split.train_counts == [3, 3, 3]


def test_without_subjects_val_is_stratified_and_repeatable() -> None:
    settings = DataSettings(split="fold1", val_share=0.25)
    split = assign(index(known=False), settings, seed=3)
    assert sorted(i.split("-")[1] for i in split.val) == sorted(LABELS)
    assert split == assign(index(known=False), settings, seed=3)
    assert any(assign(index(known=False), settings, seed=s).val != split.val for s in range(4, 9))


def test_test_part_is_cut_only_where_none_is_published() -> None:
    split = assign(index(test_from=99), DataSettings(split="fold1", val_share=0.2, test_share=0.3), seed=0)
    assert len({i[:4] for i in split.test}) == 2


def test_subject_overlap_is_reported() -> None:
    table = index()
    mixed = table.set_column(2, "subject", pa.array(["same"] * len(table)))
    assert any("subjects are in both train and test" in w for w in assign(mixed, DataSettings(), seed=0).warnings)


def test_unknown_split_names_what_is_there() -> None:
    with pytest.raises(SplitError, match="splits there: fold1"):
        assign(index(), DataSettings(split="fold9"), seed=0)


def test_class_that_train_lacks_is_refused() -> None:
    table = index()
    labels = [
        "fear" if "05-sad" in i else label
        for i, label in zip(table["sample_id"].to_pylist(), table["label"].to_pylist(), strict=True)
    ]
    with pytest.raises(SplitError, match="classes that train lacks: fear"):
        assign(table.set_column(1, "label", pa.array(labels)), DataSettings(), seed=0)
