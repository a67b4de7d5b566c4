"""The twin in a process of its own, for whoever trades against it: started, known by its URL, and gone when we are."""

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import algo_royale
from algo_royale.errors import BadInput

START_S = 60.0
STOP_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """Where a running twin is and how to sign in."""

    url: str
    data_stream: str
    trading_stream: str
    key_id: str
    secret_key: str = field(repr=False)
    symbols: tuple[str, ...]
    pid: int


class ExchangeProcess:
    """`with ExchangeProcess(["--speed", "max"]) as twin:` runs `run-exchange` with those options until the block ends.

    The child ends by itself when this process dies, however it dies. Raises BadInput with the child's last words when it does
    not come up within a minute.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def start(self) -> Twin:
        """Start the child and wait until it serves."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child; stop() closes it
        command = [sys.executable, "-m", "algo_royale", "run-exchange", *self._options]
        command += ["--json", "--exit-with-parent", str(os.getpid())]
        home = str(Path(algo_royale.__file__).parent.parent)  # a checkout that is not installed serves from anywhere
        paths = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
        # in a session of its own: Ctrl-C reaches us alone, and we end the child in our order
        self._process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": paths}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=self._errors, start_new_session=True,
        )  # fmt: skip
        line = self._first_line()
        if not line:
            words = self._last_words()
            self.stop()
            raise BadInput(f"the exchange twin did not start: {words}")
        known: dict[str, Any] = json.loads(line)
        return Twin(
            url=known["url"], data_stream=known["data_stream"], trading_stream=known["trading_stream"],
            key_id=known["key_id"], secret_key=known["secret_key"], symbols=tuple(known["symbols"]), pid=known["pid"],
        )  # fmt: skip

    def _first_line(self) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return self._process.stdout.readline() if selector.select(START_S) else b""

    def _last_words(self) -> str:
        assert self._errors is not None
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("error: ").removeprefix("Error: ") if lines else "it said nothing"

    def stop(self) -> None:
        """End the child: politely, and after five seconds by force. Harmless when it has ended."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._errors):
            if stream is not None:
                stream.close()
        self._process = None

    def __enter__(self) -> Twin:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
