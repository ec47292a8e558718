"""Figures say what the numbers say, and nothing of them is cut off."""

import math
from pathlib import Path

import matplotlib._pylab_helpers
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from pipeline.figures import class_recall, confusion_matrix, save, training_curves
from pipeline.metrics import Scores

NAMES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear", "contempt")


def scores_of(classes: int, largest: int) -> Scores:
    """Mostly right predictions; the last class has no samples."""
    counts = np.random.default_rng(classes).integers(0, largest, (classes, classes))
    counts[np.diag_indices(classes)] += 3 * largest
    counts[-1] = 0
    return Scores.from_counts(counts, NAMES[:classes])


def history_of(epochs: int) -> list[dict[str, float]]:
    return [
        {
            "epoch": epoch,
            "train_ce": 1.9 * math.exp(-epoch / 9),
            "val_ce": 1.9 * math.exp(-epoch / 12),
            "train_uar": 1 - 0.8 * math.exp(-epoch / 8),
            "val_uar": 0.7 - 0.5 * math.exp(-epoch / 8),
            "train_lr": 5e-4 / (epoch + 1),
        }
        for epoch in range(epochs)
    ]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


FIGURES = {
    "confusion of 2": confusion_matrix(scores_of(2, 10), "a title"),
    "confusion of 8": confusion_matrix(scores_of(8, 30_000), "a title"),
    "recall of 2": class_recall(scores_of(2, 10), "a title"),
    "recall of 8": class_recall(scores_of(8, 30_000), "a title"),
    "curves of 1": training_curves(history_of(1), "a title", best_epoch=0),
    "curves of 60": training_curves(history_of(60), "a title", best_epoch=41),
}


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_at_the_edge(name: str) -> None:
    figure = FIGURES[name]
    figure.canvas.draw()
    used = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    slack = 0.02
    assert used.x0 > -slack, "left"
    assert used.y0 > -slack, "bottom"
    assert used.x1 < width + slack, "right"
    assert used.y1 < height + slack, "top"


def test_a_confusion_matrix_shows_shares_counts_and_scores() -> None:
    scores = Scores.from_counts(np.array([[1500, 500, 0], [1, 3, 0], [0, 0, 0]]), ("happy", "sad", "fear"))
    shown = texts(confusion_matrix(scores, "hdf on fold1"))
    assert {"75%", "1,500", "25%", "500", "3", "1", "happy\nn = 2,000", "fear\nn = 0", "no samples"} <= set(shown)
    assert "hdf on fold1\nUAR 75.0%    WAR 75.0%    2,004 samples" in shown


def test_recall_bars_have_the_length_of_the_recall() -> None:
    scores = Scores.from_counts(np.array([[3, 1, 0], [1, 1, 0], [0, 0, 0]]), ("happy", "sad", "fear"))
    figure = class_recall(scores)
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.75, 0.5, 0.0]
    assert {"75%  (3 of 4)", "50%  (1 of 2)", "no samples", "UAR 62.5%", "chance 33.3%"} <= set(texts(figure))


def test_curves_hold_the_values_in_order_of_epochs_and_leave_out_what_is_missing() -> None:
    figure = training_curves(history_of(5)[::-1])
    assert [axes.get_title() for axes in figure.axes] == ["cross entropy", "UAR and WAR", "learning rate"]
    rates = {line.get_label(): line for line in figure.axes[1].lines}
    assert list(rates) == ["train UAR", "validation UAR"]
    assert list(rates["validation UAR"].get_xdata()) == [0, 1, 2, 3, 4]
    assert list(rates["validation UAR"].get_ydata()) == [facts["val_uar"] for facts in history_of(5)]
    only = training_curves([{"epoch": 3, "val_war": 0.5}])
    assert [axes.get_title() for axes in only.axes] == ["UAR and WAR"]
    with pytest.raises(ValueError, match="2 epochs without any known value"):
        training_curves([{"epoch": 0}, {"epoch": 1}])


def test_a_saved_figure_is_a_picture_and_leaves_no_global_state(tmp_path: Path) -> None:
    path = save(class_recall(scores_of(7, 20)), tmp_path / "new/recall.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 900
        assert len(picture.convert("L").getcolors()) > 20
    assert matplotlib._pylab_helpers.Gcf.get_all_fig_managers() == []
