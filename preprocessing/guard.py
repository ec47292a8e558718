"""Decode in a child process, so that a hang or a crash of native code costs only that clip.

The child is a plain interpreter (`python -m preprocessing.guard`): neither forked nor spawned by
multiprocessing, so it carries no threads, and never runs the __main__ of a Ray worker again.
"""

import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from preprocessing.config import DecodeSettings
from preprocessing.errors import ClipError, RejectKind
from preprocessing.frames import Frames

DECODE = "preprocessing.decode:decode"
CLIPS_PER_CHILD = 500
"""decord 0.6 keeps about 0.1 MB of every file that it opened; a fresh child gives it back."""
_START_S = 120.0
_GRACE_S = 3.0


class GuardedDecoder:
    """`decode` in a persistent child process with a wall-clock limit per clip.

    Not thread-safe: one decoder per worker. The child ends with its parent, however the parent ends.
    """

    def __init__(
        self, settings: DecodeSettings, *, function: str = DECODE, clips_per_child: int = CLIPS_PER_CHILD
    ) -> None:
        """`function` names what the child calls, as `module:name`; it has the signature of `decode`."""
        self._settings = settings
        self._function = function
        self._clips_per_child = clips_per_child
        self._clips = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def decode(self, media: str, uris: Sequence[str], frames: int) -> Frames:
        """Decode one clip; see `preprocessing.decode.decode`.

        Raises:
            ClipError: as `decode`, and of kind `timeout` or `crash` when the child had to be given up; the next
                clip gets a new child.
            RuntimeError: no child can be started: a fault of the installation, not of the clip.
        """
        if self._clips >= self._clips_per_child:
            self.close()
        if self._child is None:
            self._start()
        self._clips += 1
        name = uris[0] if uris else media
        try:
            self._pipe.send((media, list(uris), frames))
            answer = _receive(self._pipe, self._settings.timeout_s)
        except TimeoutError:
            self._kill()
            raise ClipError(
                RejectKind.TIMEOUT, "decode", f"{name}: not decoded in {self._settings.timeout_s:g} s"
            ) from None
        except (EOFError, OSError):
            raise ClipError(RejectKind.CRASH, "decode", f"{name}: {self._last_words()}") from None
        except BaseException:  # an interrupt between question and answer leaves the pipe out of step
            self._kill()
            raise
        if isinstance(answer, ClipError):
            raise answer
        return answer

    def close(self) -> None:
        """End the child process; the next `decode` starts another."""
        if self._child is None:
            return
        self._pipe.close()
        try:
            self._child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._kill()
        self._child = self._pipe = None

    def __enter__(self) -> "GuardedDecoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._child = subprocess.Popen(
            [sys.executable, "-m", "preprocessing.guard", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": path},
        )
        theirs.close()
        self._clips = 0
        try:
            self._pipe.send((self._function, self._settings))
            _receive(self._pipe, _START_S)
        except (TimeoutError, EOFError, OSError):
            raise RuntimeError(f"decoding cannot start: {self._last_words()}; its own output says why") from None

    def _kill(self) -> None:
        self._child.kill()
        self._child.wait()
        self._pipe.close()
        self._child = self._pipe = None

    def _last_words(self) -> str:
        """How the child ended."""
        try:
            code = self._child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            code = None
        self._kill()
        if code is None:
            return "the decoding process stopped answering"
        if code == -signal.SIGKILL:
            return "the decoding process was killed by SIGKILL (out of memory?)"
        if code < 0:
            return f"the decoding process was killed by {signal.Signals(-code).name}"
        return f"the decoding process ended with exit code {code}"


def _receive(pipe: Connection, timeout_s: float) -> Any:
    """One answer of the child: a pickle, then its pictures as raw buffers.

    Raises:
        TimeoutError: it did not arrive in time.
        EOFError, OSError: the child is gone.
    """
    deadline = time.monotonic() + timeout_s

    def wait() -> None:
        if not pipe.poll(max(0.0, deadline - time.monotonic())):
            raise TimeoutError

    wait()
    head, sizes = pipe.recv()
    buffers = [bytearray(size) for size in sizes]
    for buffer in buffers:
        wait()
        pipe.recv_bytes_into(buffer)
    return pickle.loads(head, buffers=buffers)


def _send(pipe: Connection, answer: Any) -> None:
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    pipe.send((head, [view.nbytes for view in views]))
    for view in views:
        pipe.send_bytes(view)


def serve(pipe: Connection) -> None:
    """Answer decode requests until the other end is closed. Runs in the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the pipe
    name, settings = pipe.recv()
    module, _, attribute = name.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    _send(pipe, "ready")
    while True:
        media, uris, frames = pipe.recv()
        # When the parent dies during a hang nobody is left to kill this process: the kernel's alarm does.
        signal.setitimer(signal.ITIMER_REAL, settings.timeout_s + _GRACE_S)
        try:
            answer = function(media, uris, frames, settings)
        except ClipError as error:
            answer = error
        except Exception as error:  # noqa: BLE001 - one clip must not end the worker; the row names the fault
            traceback.print_exc()  # to the log of the worker
            answer = ClipError(RejectKind.INTERNAL, "decode", f"{uris[0]}: {type(error).__name__}: {error}")
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(pipe, answer)


def main() -> None:
    """Serve the pipe whose file descriptor is the only argument."""
    try:
        serve(Connection(int(sys.argv[1])))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has closed the pipe or is gone


if __name__ == "__main__":
    main()
