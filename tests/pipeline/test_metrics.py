"""Counts and scores, checked against scikit-learn."""

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix

from pipeline.metrics import Scores, confusion

NAMES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")


@st.composite
def predictions(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    classes = draw(st.integers(2, len(NAMES)))
    pairs = st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1))
    truth, predicted = zip(*draw(st.lists(pairs, min_size=1, max_size=60)), strict=True)
    return classes, list(truth), list(predicted)


def as_logits(predicted: list[int], classes: int) -> torch.Tensor:
    noise = torch.rand(len(predicted), classes, generator=torch.Generator().manual_seed(len(predicted)))
    return noise + 2 * torch.nn.functional.one_hot(torch.tensor(predicted), classes)


@settings(deadline=None)
@given(predictions())
def test_scores_equal_those_of_scikit_learn(case: tuple[int, list[int], list[int]]) -> None:
    classes, truth, predicted = case
    counts = confusion(as_logits(predicted, classes), torch.tensor(truth))
    scores = Scores.from_counts(counts, NAMES[:classes])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of classes that are predicted but absent
        assert scores.uar == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert scores.war == pytest.approx(accuracy_score(truth, predicted))
    assert np.array_equal(counts.numpy(), confusion_matrix(truth, predicted, labels=range(classes)))
    assert counts.dtype == torch.int64


@settings(deadline=None)
@given(predictions(), st.integers(1, 7))
def test_counts_do_not_depend_on_how_samples_are_split(case: tuple[int, list[int], list[int]], parts: int) -> None:
    classes, truth, predicted = case
    logits, labels = as_logits(predicted, classes), torch.tensor(truth)
    shares = [confusion(logits[rank::parts], labels[rank::parts]) for rank in range(parts)]
    assert torch.equal(torch.stack(shares).sum(dim=0), confusion(logits, labels))


def test_ignored_rows_are_not_counted_even_when_they_are_not_finite() -> None:
    logits = torch.tensor([[0.0, 1.0], [float("nan"), 0.0], [3.0, 1.0]])
    counts = confusion(logits, torch.tensor([1, -1, 1]))
    assert counts.tolist() == [[0, 0], [1, 1]]


def test_a_batch_of_padding_only_counts_nothing() -> None:
    assert not confusion(torch.zeros(2, 3), torch.tensor([-1, -1])).any()


def test_a_class_without_samples_is_left_out_and_listed() -> None:
    scores = Scores.from_counts(np.array([[3, 1, 0], [0, 0, 0], [1, 0, 1]]), ("happy", "sad", "fear"))
    assert scores.uar == pytest.approx((0.75 + 0.5) / 2)
    assert scores.war == pytest.approx(4 / 6)
    assert scores.empty == ("sad",)
    assert scores.recall == (0.75, None, 0.5)
    assert scores.support == (4, 0, 2)
    assert "test/recall_sad" not in scores.to_metrics("test")
    assert scores.to_metrics("test")["test/recall_happy"] == 0.75


def test_scores_are_ready_for_json() -> None:
    scores = Scores.from_counts(torch.tensor([[2, 0], [0, 0]]), ("happy", "sad"))
    back = json.loads(json.dumps(scores.to_dict()))
    assert back["recall"] == [1.0, None]
    assert back["confusion"] == [[2, 0], [0, 0]]


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), "label 3 is outside -1 .. 2"),
        (torch.zeros(2, 3), torch.tensor([-2, 0]), "label -2 is outside"),
        (torch.zeros(2, 3), torch.tensor([0]), "need \\(B, K\\) and \\(B,\\) integers"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "torch.float32 labels"),
        (torch.full((1, 3), float("inf")), torch.tensor([0]), "not finite"),
    ],
)
def test_impossible_batches_are_refused(logits: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion(logits, labels)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.zeros((2, 2)), "integer \\(K, K\\), got float64"),
        (np.zeros((2, 3), dtype=int), "integer \\(K, K\\)"),
        (np.array([[1, -1], [0, 0]]), "holds counts, got -1"),
        (np.eye(3, dtype=int), "3 classes, but 2 class names"),
        (np.zeros((2, 2), dtype=int), "nothing to score"),
    ],
)
def test_impossible_counts_are_refused(counts: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scores.from_counts(counts, ("happy", "sad"))
