"""Decode in a child process, so that a hang or a crash of native code costs only that clip."""

from collections.abc import Sequence
from types import TracebackType

from preprocessing.config import DecodeSettings
from preprocessing.decode import Frames


class GuardedDecoder:
    """`decode` in a persistent child process with a wall-clock limit per clip."""

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings

    def decode(self, media: str, uris: Sequence[str], frames: int) -> Frames:
        """Decode one clip; see `preprocessing.decode.decode`.

        Raises:
            ClipError: as `decode`, and of kind `timeout` or `crash` when the child had to be given up.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End the child process."""

    def __enter__(self) -> "GuardedDecoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
