"""A hang or a crash in native code costs one clip, and no process is left behind."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from make_media import write_video

from preprocessing.config import DecodeSettings
from preprocessing.decode import decode
from preprocessing.errors import ClipError, RejectKind
from preprocessing.guard import GuardedDecoder

TESTS = Path(__file__).parents[1]
HOOK = "decoder_hooks:act"


@pytest.fixture(autouse=True)
def hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))


@pytest.fixture
def guard() -> Iterator[GuardedDecoder]:
    with GuardedDecoder(DecodeSettings(timeout_s=1), function=HOOK) as guard:
        yield guard


def child(guard: GuardedDecoder) -> int:
    return guard.decode("video", ["fine"], 1).index[0]


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(pid: int, limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not is_gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_gone(pid)


def test_frames_are_those_of_an_unguarded_decode(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "a.mp4"))
    plain = decode("video", [path], 6, DecodeSettings())
    with GuardedDecoder(DecodeSettings()) as guard:
        guarded = guard.decode("video", [path], 6)
    assert all(np.array_equal(a, b) for a, b in zip(plain.images, guarded.images, strict=True))
    assert all(image.flags.writeable for image in guarded.images)
    plain.images = guarded.images = []
    assert plain == guarded


def test_errors_cross_the_border_unchanged(guard: GuardedDecoder, tmp_path: Path) -> None:
    with pytest.raises(ClipError) as error:
        guard.decode("video", ["refuse"], 1)
    assert (error.value.kind, error.value.stage, error.value.message) == ("too_large", "decode", "far too large")
    with pytest.raises(ClipError) as error:
        guard.decode("video", ["bug"], 1)
    assert error.value.kind == RejectKind.INTERNAL
    assert "bug: KeyError: 'no such thing'" in error.value.message


def test_a_hang_costs_one_clip(guard: GuardedDecoder) -> None:
    first = child(guard)
    started = time.monotonic()
    with pytest.raises(ClipError, match="hang: not decoded in 1 s") as error:
        guard.decode("video", ["hang"], 1)
    assert time.monotonic() - started < 3
    assert error.value.kind == RejectKind.TIMEOUT
    assert is_gone(first)
    assert child(guard) != first


@pytest.mark.parametrize(
    ("action", "text"),
    [("abort", "SIGABRT"), ("segfault", "SIGSEGV"), ("killed", "SIGKILL (out of memory?)"), ("exit", "exit code 3")],
)
def test_a_crash_costs_one_clip(guard: GuardedDecoder, action: str, text: str) -> None:
    with pytest.raises(ClipError) as error:
        guard.decode("video", [action], 1)
    assert error.value.kind == RejectKind.CRASH
    assert action in error.value.message
    assert text in error.value.message
    assert child(guard)


def test_a_child_that_died_between_clips_is_a_crash_of_the_next(guard: GuardedDecoder) -> None:
    psutil.Process(child(guard)).kill()
    with pytest.raises(ClipError) as error:
        child(guard)
    assert error.value.kind == RejectKind.CRASH
    assert child(guard)


def test_the_child_is_renewed(tmp_path: Path) -> None:
    with GuardedDecoder(DecodeSettings(), function=HOOK, clips_per_child=2) as guard:
        pids = [child(guard) for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert all(is_gone(pid) for pid in pids)


def test_the_child_is_light(guard: GuardedDecoder) -> None:
    assert guard.decode("video", ["fine"], 1).codec == ""  # neither Ray nor torch nor MLflow


def test_a_child_that_cannot_start_is_no_fault_of_the_clip() -> None:
    with (
        GuardedDecoder(DecodeSettings(), function="nowhere:decode") as guard,
        pytest.raises(RuntimeError, match=r"decoding cannot start: .* exit code 1"),
    ):
        guard.decode("video", ["fine"], 1)


@pytest.mark.parametrize("action", ["idle", "hang"])
def test_the_child_ends_with_a_killed_parent(action: str) -> None:
    code = f"""
import time
from preprocessing.config import DecodeSettings
from preprocessing.guard import GuardedDecoder
guard = GuardedDecoder(DecodeSettings(timeout_s=1), function={HOOK!r})
print(guard.decode("video", ["fine"], 1).index[0], flush=True)
if {action!r} == "hang":
    guard._pipe.send(("video", ["hang"], 1))
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=TESTS.parent, stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert wait_until_gone(pid, 20)
