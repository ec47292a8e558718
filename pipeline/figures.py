"""Figures of a run: confusion matrix, per-class recall, training curves.

Colours are those of Okabe and Ito (2008) and one blue ramp: readable with every kind of colour blindness, and in
grey. Figures are made without pyplot: no global state, no display.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pipeline.metrics import Scores

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#595959"
DPI = 150
MARKED_EPOCHS = 20
RATES = "UAR and WAR"
PANELS = {
    "cross entropy": [("train_ce", "train", BLUE, "-"), ("val_ce", "validation", ORANGE, "-")],
    RATES: [
        ("train_uar", "train UAR", BLUE, "-"),
        ("train_war", "train WAR", BLUE, "--"),
        ("val_uar", "validation UAR", ORANGE, "-"),
        ("val_war", "validation WAR", ORANGE, "--"),
    ],
    "learning rate": [("train_lr", "learning rate", GREEN, "-")],
}
"""Panels of the training curves: value of an epoch, label, colour, line."""


def confusion_matrix(scores: Scores, title: str = "") -> Figure:
    """Share of each true class (row) that went to each prediction, in per cent, with the counts below."""
    counts = np.asarray(scores.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.72 * len(counts)
    figure, axes = _figure(side + 1.6, side + 0.4)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for row, column in np.argwhere(counts > 0):
        _write_cell(axes, row, column, shares[row, column], counts[row, column])
    for row in np.flatnonzero(counts.sum(axis=1) == 0):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        axes.text((len(counts) - 1) / 2, row, "no samples", ha="center", va="center", color=GREY, bbox=box)
    labels = [f"{name}\nn = {n:,}" for name, n in zip(scores.classes, scores.support, strict=True)]
    axes.set_xticks(range(len(counts)), scores.classes, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(counts)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    _cell_borders(axes, len(counts))
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, format=PercentFormatter(1.0))
    bar.outline.set_visible(False)
    axes.set_title(_head(scores, title), fontsize=11)
    return figure


def class_recall(scores: Scores, title: str = "") -> Figure:
    """Recall per class as bars, with UAR and chance level; a class without samples has no bar."""
    places = range(len(scores.classes))
    figure, axes = _figure(6.4, 1.7 + 0.36 * len(places))
    axes.barh(places, [value or 0.0 for value in scores.recall], color=BLUE, height=0.68)
    for place, value, n in zip(places, scores.recall, scores.support, strict=True):
        text = "no samples" if value is None else f"{value:.0%}  ({round(value * n):,} of {n:,})"
        axes.text(1.02, place, text, va="center", fontsize=9)
    chance = 1 / len(places)
    axes.axvline(scores.uar, color=ORANGE, linewidth=1.8, label=f"UAR {scores.uar:.1%}")
    axes.axvline(chance, color="black", linewidth=1.2, linestyle=":", label=f"chance {chance:.1%}")
    axes.set_yticks(places, scores.classes)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("recall")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    axes.set_title(_head(scores, title), fontsize=11)
    return figure


def training_curves(history: Sequence[Mapping[str, Any]], title: str = "", best_epoch: int | None = None) -> Figure:
    """Cross entropy, UAR and WAR, and learning rate over epochs; a panel without values is left out.

    Args:
        history: one mapping per epoch with `epoch` and any of the keys of PANELS.
        best_epoch: epoch to mark.

    Raises:
        ValueError: no epoch has any of the values.
    """
    rows = sorted(history, key=lambda facts: facts["epoch"])
    panels = {name: [curve for curve in curves if _points(rows, curve[0])] for name, curves in PANELS.items()}
    panels = {name: curves for name, curves in panels.items() if curves}
    if not panels:
        raise ValueError(f"no curve to draw: {len(rows)} epochs without any known value")
    figure = Figure(figsize=(3.6 * len(panels), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    marker = "o" if len(rows) <= MARKED_EPOCHS else ""
    for axes, (name, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for key, label, colour, line in curves:
            axes.plot(*_points(rows, key), line, color=colour, label=label, linewidth=1.6, marker=marker, markersize=3)
        _style_curves(axes, name, best_epoch)
    figure.suptitle(title, fontsize=12)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _head(scores: Scores, title: str) -> str:
    lines = [title, f"UAR {scores.uar:.1%}    WAR {scores.war:.1%}    {scores.samples:,} samples"]
    return "\n".join(filter(None, lines))


def _write_cell(axes: Axes, row: int, column: int, share: float, count: int) -> None:
    colour = "white" if share > 0.6 else "black"
    axes.text(column, row - 0.1, f"{share:.0%}", ha="center", va="center", color=colour, fontsize=11)
    axes.text(column, row + 0.25, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)


def _cell_borders(axes: Axes, classes: int) -> None:
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, ...]]:
    """Epochs and values of one curve; empty when no epoch has it."""
    return list(zip(*[(facts["epoch"], facts[key]) for facts in rows if facts.get(key) is not None], strict=True))


def _style_curves(axes: Axes, name: str, best_epoch: int | None) -> None:
    if best_epoch is not None:
        axes.axvline(best_epoch, color=GREY, linewidth=1, linestyle=":", label=f"best epoch ({best_epoch})")
    axes.set_title(name, fontsize=11)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.legend(frameon=False, fontsize=8)
    if name == RATES:
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4), useMathText=True)
