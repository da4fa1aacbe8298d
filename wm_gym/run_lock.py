"""One writer at a time in a folder or file of results, whatever process or thread it is in."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from wm_gym.errors import UserError


class InUseError(UserError, RuntimeError):
    """Results that another process, or another thread of this one, is writing."""


class RunLock:
    """The right to write to a folder or file; ends with `release`, or with the process.

    The operating system holds the lock, so a process that was killed leaves none behind. The lock
    file, which is gone after `release`, says who holds it.

    Args:
        place: what is written, named in errors.
        file: the lock file.

    Example:
        >>> with RunLock.of_folder("outputs/run"):
        ...     pass  # nobody else writes there
    """

    def __init__(self, place: Path, file: Path) -> None:
        self.place, self.file = place, file
        self._lock: FileLock | None = None
        self._made = False

    @classmethod
    def of_folder(cls, folder: str | Path) -> RunLock:
        """The lock of a folder, `.lock` inside it; the folder is made if needed."""
        folder = Path(folder).expanduser().resolve()
        return cls(folder, folder / ".lock")

    @classmethod
    def of_file(cls, file: str | Path) -> RunLock:
        """The lock of a file, or of a folder that is to appear whole; it lies beside it."""
        file = Path(file).expanduser().resolve()
        return cls(file, file.with_name(f".{file.name}.lock"))

    def acquire(self) -> RunLock:
        """Take the lock without waiting.

        Raises:
            InUseError: naming the process that holds it, its machine and since when.
        """
        self._made = not self.file.parent.exists()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.file, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except (Timeout, RuntimeError) as error:  # RuntimeError: this very thread holds it
            if isinstance(error, RuntimeError) and "eadlock" not in str(error):
                raise
            raise InUseError(
                f"{self.place} is being written by {self._holder()}; wait until that has ended, "
                "or choose another place"
            ) from None
        self._lock = lock
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.file.write_text(json.dumps(holder), encoding="utf-8")
        return self

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held, or was taken before a fork."""
        lock, self._lock = self._lock, None
        if lock is None or not lock.is_locked:
            return
        with contextlib.suppress(OSError):  # while it is held: nobody else's file is removed
            self.file.unlink(missing_ok=True)
            if self._made:  # nothing was written after all: no empty folder is left behind
                self.file.parent.rmdir()
        lock.release()

    def _holder(self) -> str:
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
            pid, host, since = found["pid"], found["host"], found["since"]
        except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or just ended
            return "another process"
        own = (pid, host) == (os.getpid(), socket.gethostname())
        return f"{'this process' if own else 'process'} {pid} on {host} since {since}"

    def __enter__(self) -> RunLock:
        """Take the lock."""
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it back."""
        self.release()


@contextlib.contextmanager
def one_writer(*folders: str | Path | None) -> Iterator[None]:
    """Hold the locks of several folders, each once; None is none.

    Raises:
        InUseError: if one of them is held; none is then.
    """
    with contextlib.ExitStack() as held:
        locks = [RunLock.of_folder(folder) for folder in folders if folder is not None]
        for lock in {lock.file: lock for lock in locks}.values():
            held.enter_context(lock)
        yield
