"""Decoders that misbehave on purpose, for the guard's child process; the first uri says how."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence

import numpy as np

from preprocessing.config import DecodeSettings
from preprocessing.errors import ClipError, RejectKind
from preprocessing.frames import Frames


def act(media: str, uris: Sequence[str], frames: int, settings: DecodeSettings) -> Frames:
    """Hang, crash or fail as `uris[0]` says; otherwise report the process id and the loaded heavy modules."""
    action = uris[0]
    if action == "hang":
        time.sleep(600)
    elif action == "abort":
        os.abort()
    elif action == "segfault":
        ctypes.string_at(0)
    elif action == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "exit":
        os._exit(3)
    elif action == "bug":
        raise KeyError("no such thing")
    elif action == "refuse":
        raise ClipError(RejectKind.TOO_LARGE, "decode", "far too large")
    heavy = ",".join(sorted({"ray", "torch", "mlflow"} & set(sys.modules)))
    return Frames([np.zeros((2, 2, 3), np.uint8)], [os.getpid()], [0.0], 2, 2, None, 1, heavy, media, "1")
