"""One tree of errors, named by whose fault it is; each carries what a person needs to act on it."""

import difflib
from collections.abc import Iterable


class AlgoRoyaleError(Exception):
    """Base of every error we raise on purpose. The CLI prints its message as one line."""

    exit_code = 1


class BadInput(AlgoRoyaleError):
    """What the user asked for is impossible; the message says what to change."""


class BadConfiguration(BadInput):
    """A configuration value is unknown, of the wrong type, or contradicts another one."""


class BadStrategy(BadInput):
    """A user's strategy that cannot be loaded or that fails while it runs; the message gives file, line and reason."""


class UnsupportedTimeframe(BadConfiguration):
    """A component that needs shorter or longer bars than those it was asked for."""


class UnknownName(BadInput):
    """A name that is not in its catalogue; the message offers the nearest one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        nearest = difflib.get_close_matches(name, self.known, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; known: {', '.join(self.known[:12])}"
        super().__init__(f"unknown {kind} {name!r}{hint}")


class BadMarketData(AlgoRoyaleError):
    """Bars that cannot be true: unsorted, duplicate, non-finite or non-positive."""


class InsufficientHistory(BadInput):
    """The data do not reach far enough for what was asked."""


class ArtifactError(AlgoRoyaleError):
    """An artifact is missing, corrupt, or was made by something else than what reads it."""


class AlreadyRunning(AlgoRoyaleError):
    """Another process holds this environment."""


class BrokerError(AlgoRoyaleError):
    """The broker answered wrongly or not at all."""


class BrokerUnavailable(BrokerError):
    """No usable answer (timeout, connection error, 5xx, 429): what was asked may or may not have happened."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BrokerRejected(BrokerError):
    """The broker understood and said no; asking again unchanged is pointless."""

    def __init__(self, status: int, code: int | None, message: str) -> None:
        super().__init__(f"broker rejected ({status}/{code}): {message}")
        self.status, self.code, self.message = status, code, message


class LedgerError(AlgoRoyaleError):
    """The ledger could not be read or written; trading must halt."""

    exit_code = 5
