"""A sample that kills its worker again and again is found; one that was only near is not blamed."""

from pathlib import Path

from preprocessing.attempts import MAX_LOSSES, Attempts


def test_only_the_sample_at_which_workers_die_is_given_up(tmp_path: Path) -> None:
    for _ in range(MAX_LOSSES):
        attempt = Attempts(tmp_path, 7)
        assert attempt.enter("good")
        assert attempt.enter("poison")
    attempt = Attempts(tmp_path, 7)
    assert attempt.enter("good")
    assert not attempt.enter("poison")
    assert attempt.enter("next")


def test_losses_at_several_samples_are_counted_apart(tmp_path: Path) -> None:
    for name in ("a", "b") * (MAX_LOSSES - 1):
        assert Attempts(tmp_path, 0).enter(name)
    assert Attempts(tmp_path, 0).enter("a")
    attempt = Attempts(tmp_path, 0)
    assert not attempt.enter("a")
    assert attempt.enter("b")


def test_a_finished_part_leaves_no_record(tmp_path: Path) -> None:
    attempt = Attempts(tmp_path, 3)
    attempt.enter("a")
    attempt.clear()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    for _ in range(MAX_LOSSES + 1):
        attempt = Attempts(tmp_path, 3)
        assert attempt.enter("a")
        attempt.clear()


def test_parts_have_records_of_their_own(tmp_path: Path) -> None:
    for _ in range(MAX_LOSSES):
        Attempts(tmp_path, 0).enter("a")
    assert not Attempts(tmp_path, 0).enter("a")
    assert Attempts(tmp_path, 1).enter("a")
