"""Ids derived from what they stand for, so that deciding again after a crash names the same things."""

import hashlib
import re
from functools import lru_cache

_UNSAFE = re.compile(r"[^A-Za-z0-9_.]")
ID_LENGTH_MAX = 48


def decision_prefix(ledger_id: str) -> str:
    """What the id of every decision of a ledger begins with; the bar's end (UTC ns) follows."""
    return f"d-{_digest(ledger_id)}-"


def decision_id(ledger_id: str, bar_end_ns: int) -> str:
    """Id of a ledger's decision for the bars that ended at `bar_end_ns` (UTC ns)."""
    return f"{decision_prefix(ledger_id)}{bar_end_ns}"


def client_order_id(ledger_id: str, bar_end_ns: int, symbol: str, n: int = 0) -> str:
    """Id of the n-th order of `symbol` decided at `bar_end_ns`: [A-Za-z0-9_.-], at most 48 characters.

    The symbol is readable in it; a symbol whose characters had to be replaced is told apart by the digest.
    """
    digest, readable = _named(ledger_id, symbol)
    return f"ar-{digest}-{bar_end_ns // 1_000_000}-{readable}-{n}"


@lru_cache(maxsize=10_000)  # a ledger and its symbols, asked for at every order
def _named(ledger_id: str, symbol: str) -> tuple[str, str]:
    return _digest(f"{ledger_id}|{symbol}"), _UNSAFE.sub("_", symbol)[:12]


def _digest(text: str) -> str:
    return hashlib.blake2s(text.encode(), digest_size=5).hexdigest()


def is_ours(client_order_id: str) -> bool:
    """Whether an order on the account carries the mark of orders made by `client_order_id`, of whatever ledger."""
    return client_order_id.startswith("ar-")
