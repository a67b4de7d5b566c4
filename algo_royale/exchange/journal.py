"""What a twin was asked, in a file, so that another process can go on where it ended.

An exchange is a function of its seed and of what it was asked when; so a journal of requests and of time is its whole state.
"""

import os
from pathlib import Path
from typing import IO

import msgspec

from algo_royale.errors import BadInput
from algo_royale.exchange.control import FORMS, control
from algo_royale.exchange.core import Exchange


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request that may change something, at an instant of virtual time; without a method, time alone."""

    at_ns: int
    method: str = ""
    path: str = ""
    query: dict[str, str] = {}
    body: bytes = b""


class Journal:
    """Appends to the file and, where it has something already, lets the exchange live through it first.

    `identity` says what exchange it is of: its seed, data and rules. Raises BadInput for a file of another one, or that is no
    journal, or that cannot be written. A last line that was cut off by the end of its process counts for nothing.
    """

    def __init__(self, path: Path, exchange: Exchange, identity: str) -> None:
        self._exchange = exchange
        try:
            self._file: IO[bytes] = open(path, "a+b", opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115 - kept open
            self._file.seek(0)
            lines = self._file.read().split(b"\n")
        except OSError as error:
            raise BadInput(f"cannot keep the exchange's state in {path}: {error.strerror}") from error
        whole, rest = lines[:-1], lines[-1]
        known = whole[0] == identity.encode() if whole else identity.encode().startswith(rest)
        if not known:
            raise BadInput(f"{path} is the state of another exchange ({lines[0][:200].decode(errors='replace')})")
        try:
            entries = [msgspec.json.decode(line, type=Entry) for line in whole[1:]]
        except msgspec.MsgspecError as error:
            raise BadInput(f"{path} is not the state of an exchange: {error}") from None
        for entry in entries:
            self._live(entry)
        if rest:
            self._file.truncate(self._file.tell() - len(rest))
        if not whole:
            self._file.write(identity.encode() + b"\n")
            self._file.flush()
        self._marked_ns = exchange.now_ns

    def _live(self, entry: Entry) -> None:
        self._exchange.advance(entry.at_ns)
        if entry.path in FORMS:
            control(self._exchange, entry.path, entry.body)
        elif entry.method:
            headers = self._exchange.config.auth_headers
            self._exchange.handle(entry.method, entry.path, entry.query, entry.body, headers)

    def request(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        """Write down a request before it is answered. Those that only read are left out."""
        if method not in ("GET", "OPTIONS"):
            self._write(Entry(at_ns=self._exchange.now_ns, method=method, path=path, query=query, body=body))

    def time(self) -> None:
        """Write down how late it is, where it is later than what was written last."""
        if self._exchange.now_ns > self._marked_ns:
            self._write(Entry(at_ns=self._exchange.now_ns))

    def _write(self, entry: Entry) -> None:
        self._marked_ns = entry.at_ns
        self._file.write(msgspec.json.encode(entry) + b"\n")
        self._file.flush()
