"""Nothing is lost and nothing is sent twice, whatever fails and whenever a process dies."""

import logging
import tempfile
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import outbox as module
from pipeline.outbox import UNSENT_METRICS, Outbox, Point


class Ledger:
    """A server that can be down, or accept a batch and die before it answers."""

    def __init__(self) -> None:
        self.rows: list[Point] = []
        self.state = "up"

    def send(self, points: Sequence[Point]) -> None:
        if self.state == "down":
            raise ConnectionError("down")
        self.rows += [point for point in points if point not in self.rows]
        if self.state == "mute":
            raise ConnectionError("no answer")

    def recorded(self, keys: Collection[str]) -> set[tuple[str, int]]:
        if self.state == "down":
            raise ConnectionError("down")
        return {row.place for row in self.rows if row.key in keys}

    def outbox(self, folder: Path) -> Outbox:
        return Outbox(folder, self.send, self.recorded)


def point(step: int, value: float = 0.5, key: str = "val/uar") -> Point:
    return Point(key, value, step, 1_700_000_000_000 + step)


def test_a_failure_puts_points_on_disk_at_once_and_a_later_process_sends_them(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.state = "down"
    first = ledger.outbox(tmp_path)
    first.add([point(0), point(1)])
    assert not first.flush()
    del first  # the process dies here: nothing is closed
    ledger.state = "up"
    assert ledger.outbox(tmp_path).flush()
    assert ledger.rows == [point(0), point(1)]
    assert not (tmp_path / UNSENT_METRICS).exists()


def test_the_first_value_of_a_step_stands(tmp_path: Path) -> None:
    ledger = Ledger()
    box = ledger.outbox(tmp_path)
    box.add([point(0, 0.1), point(0, 0.2)])
    box.flush()
    again = ledger.outbox(tmp_path)
    again.add([point(0, 0.3), point(1, 0.4)])
    again.flush()
    assert [(row.step, row.value) for row in ledger.rows] == [(0, 0.1), (1, 0.4)]


def test_a_silent_server_is_tried_more_and_more_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    ledger, tries, answer_s = Ledger(), [], 5.0

    def recorded(keys: Collection[str]) -> set[tuple[str, int]]:
        tries.append(clock[0])
        clock[0] += answer_s
        return ledger.recorded(keys)

    box = Outbox(tmp_path, ledger.send, recorded)
    ledger.state = "down"
    for step in range(200):
        box.add([point(step)])
        box.flush()
        clock[0] += 1.0
    pauses = [later - earlier - answer_s for earlier, later in pairwise(tries)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    ledger.state = "up"
    assert box.flush(now=True)
    assert [row.step for row in ledger.rows] == list(range(200))


def test_an_outage_is_reported_once_and_so_is_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    ledger = Ledger()
    ledger.state = "down"
    box = ledger.outbox(tmp_path)
    for step in range(5):
        box.add([point(step)])
        box.flush(now=True)
    ledger.state = "up"
    box.flush(now=True)
    assert len(caplog.messages) == 2
    assert UNSENT_METRICS in caplog.messages[0]
    assert "5 metric values" in caplog.messages[1]


def test_a_torn_line_is_reported_and_costs_only_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger()
    ledger.state = "down"
    box = ledger.outbox(tmp_path)
    box.add([point(0)])
    box.flush()
    with (tmp_path / UNSENT_METRICS).open("a") as stream:
        stream.write('{"key": "val/u')
    box.add([point(1)])
    box.flush(now=True)
    ledger.state = "up"
    assert ledger.outbox(tmp_path).flush()
    assert ledger.rows == [point(0), point(1)]
    assert "torn line" in caplog.text


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["up", "down", "mute"]), st.sampled_from(["go on", "die"])), max_size=12))
def test_every_flushed_step_arrives_exactly_once(history: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        ledger = Ledger()
        box = ledger.outbox(Path(name))
        for step, (state, fate) in enumerate(history):
            ledger.state = state
            box.add([point(step), point(max(step - 1, 0), 0.9)])
            box.flush(now=True)
            if fate == "die":
                box = ledger.outbox(Path(name))
        ledger.state = "up"
        assert box.flush(now=True)
        assert sorted(row.place for row in ledger.rows) == [("val/uar", step) for step in range(len(history))]
