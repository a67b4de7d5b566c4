"""The process's own log: on stderr for a person, in a rotating file for later. Facts as key=value, lowercase, no full stop.

It is for what happens to the process (start, stop, connections). What actors tell each other is in the message log.
"""

import logging
import logging.handlers
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_LOUD_LIBRARIES = ("alpaca", "asyncio", "numba", "optuna", "pykka", "schedule", "urllib3", "uvicorn", "websocket")


def fact(event: str, **facts: object) -> str:
    """`event key=value ...`; values with blanks are quoted."""
    return " ".join([event, *(f"{name}={_shown(value)}" for name, value in facts.items())])


def _shown(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or c in '"=' for c in text) else text


def level_of(name: str, verbosity: int) -> int:
    """The configured level, moved by -v and -q."""
    order = sorted(_LEVELS.values())
    index = order.index(_LEVELS[name]) - verbosity
    return order[min(max(index, 0), len(order) - 1)]


@contextmanager
def process_log(
    file: Path | None, *, level: str = "info", verbosity: int = 0, file_mb: int = 10, files: int = 3
) -> Iterator[logging.Logger]:
    """Log to stderr at `level`, and everything from info on to `file` (rotated at `file_mb`, `files` old ones kept).

    A log that cannot be written never stops the process: the file is left out and stderr says so.
    """
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(level_of(level, verbosity))
    handlers: list[logging.Handler] = [screen]
    problem = None
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            kept = logging.handlers.RotatingFileHandler(
                file, maxBytes=file_mb * 1_000_000, backupCount=files, encoding="utf-8"
            )
            kept.setLevel(min(logging.INFO, screen.level))
            handlers.append(kept)
        except OSError as error:
            problem = fact("no log file", path=file, reason=error.strerror)
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    for handler in handlers:
        handler.setFormatter(formatter)
    for name in _LOUD_LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, screen.level))
    root.handlers, root.level = handlers, min(handler.level for handler in handlers)
    logger = logging.getLogger("algo_royale")
    if problem:
        logger.warning(problem)
    try:
        yield logger
    finally:
        for handler in handlers:
            handler.close()
        root.level, root.handlers = before
