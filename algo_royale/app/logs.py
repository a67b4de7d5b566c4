"""The process's own log: on stderr for a person (facts as key=value), in a rotating file for machines (one JSON object a line).

It is for what happens to the process (start, stop, connections). What actors tell each other is in the message log.
"""

import json
import logging
import logging.handlers
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
SECRET_MIN, BLOT = 6, "[secret]"
_LOUD_LIBRARIES = (
    "alpaca",
    "apprise",
    "asyncio",
    "numba",
    "optuna",
    "pykka",
    "schedule",
    "urllib3",
    "uvicorn",
    "websocket",
)


class Fact(str):
    """A line for people that remembers its parts for machines."""

    event: str
    facts: Mapping[str, object]


def fact(event: str, /, **facts: object) -> Fact:
    """`event key=value ...`, lowercase, no full stop; values with blanks are quoted."""
    line = Fact(" ".join([event, *(f"{name}={_shown(value)}" for name, value in facts.items())]))
    line.event, line.facts = event, facts
    return line


def visible(text: str) -> str:
    """What others wrote, for a terminal: control characters are shown, not obeyed."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _shown(value: object) -> str:
    text = str(value)
    odd = not text or not text.isprintable() or any(c.isspace() or c in '"=' for c in text)
    return visible(repr(text)) if odd else text


def secrets_of(url: str) -> tuple[str, ...]:
    """An address that is a secret, and the password in it, as written and as meant."""
    _, _, rest = url.partition("://")
    password = rest.rpartition("@")[0].partition(":")[2]
    return tuple(filter(None, (url, password, unquote(password))))


class _Lines(logging.Formatter):
    """For people. Whatever is known to be secret is blotted out of every line, should it ever get into one."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__("%(asctime)sZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime
        long = [secret for secret in secrets if len(secret) >= SECRET_MIN]
        self._secrets = sorted({*long, *(json.dumps(secret)[1:-1] for secret in long)})

    def format(self, record: logging.LogRecord) -> str:
        text = self._text(record)
        for secret in self._secrets:
            text = text.replace(secret, BLOT)
        return text

    def _text(self, record: logging.LogRecord) -> str:
        return super().format(record)


class _Objects(_Lines):
    """For machines: time, level, logger, event, then the facts; the traceback of an exception as `error`."""

    def _text(self, record: logging.LogRecord) -> str:
        stamp = f"{self.formatTime(record, self.datefmt)}.{round(record.msecs) % 1000:03d}Z"
        found: dict[str, object] = {"time": stamp, "level": record.levelname.lower(), "logger": record.name}
        if isinstance(record.msg, Fact):
            found |= {"event": record.msg.event} | {
                name: value for name, value in record.msg.facts.items() if name not in found
            }
        else:
            found["event"] = record.getMessage()
        if record.exc_info:
            found["error"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)


def level_of(name: str, verbosity: int) -> int:
    """The configured level, moved by -v and -q."""
    order = sorted(_LEVELS.values())
    index = order.index(_LEVELS[name]) - verbosity
    return order[min(max(index, 0), len(order) - 1)]


@contextmanager
def process_log(
    file: Path | None, *, level: str = "info", verbosity: int = 0, file_mb: int = 10, files: int = 3,
    secrets: Sequence[str] = (),
) -> Iterator[logging.Logger]:  # fmt: skip
    """Log to stderr at `level`, and everything from info on to `file` (rotated at `file_mb`, `files` old ones kept).

    A log that cannot be written never stops the process: the file is left out and stderr says so. `secrets` are blotted out.
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
            kept.setFormatter(_Objects(secrets))
            handlers.append(kept)
        except OSError as error:
            problem = fact("no log file", path=file, reason=error.strerror)
    screen.setFormatter(_Lines(secrets))
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
