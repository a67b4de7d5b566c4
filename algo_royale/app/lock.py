"""One instance per environment: a lock on a file that the operating system drops with the process, however that ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from algo_royale.errors import AlreadyRunning, BadInput


@contextmanager
def single_instance(directory: Path, name: str) -> Iterator[Path]:
    """Hold `<directory>/<name>.lock`; `<name>.pid` beside it says who.

    Raises AlreadyRunning naming the process that holds it, BadInput when the directory cannot be written.
    """
    lock_path, pid_path = directory / f"{name}.lock", directory / f"{name}.pid"
    lock = filelock.FileLock(lock_path, blocking=False)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        pid_path.write_text(f"{os.getpid()}\n", encoding="ascii")
    except filelock.Timeout:
        pid = _read_pid(pid_path)
        who = f"process {pid}" if pid else "another process"
        raise AlreadyRunning(f"{name} is already running in {directory} ({who})") from None
    except OSError as error:
        lock.release()
        raise BadInput(f"cannot write in {directory}: {error.strerror}; choose another --home") from error
    try:
        yield lock_path
    finally:
        pid_path.unlink(missing_ok=True)
        lock.release()


def holder(directory: Path, name: str) -> int | None:
    """The process that says it holds the lock and is alive, or None. Never touches the lock, so it disturbs nobody."""
    pid = _read_pid(directory / f"{name}.pid")
    if pid is None:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # alive, and somebody else's
        return pid
    return pid


def _read_pid(pid_path: Path) -> int | None:
    try:
        return int(pid_path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
