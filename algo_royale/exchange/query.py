"""Reading query strings and bodies: a wrong one is answered and never guessed at."""

from collections.abc import Mapping

import msgspec

from algo_royale.exchange.wire import BAD_BODY, BAD_FIELD, Refusal, Wire, parse_instant

Query = Mapping[str, str]


def bad(message: str, *, data: bool) -> Refusal:
    """A wrong query: market data answers 400 without a code, trading 422 with one."""
    return Refusal(400, None, message) if data else Refusal(422, BAD_FIELD, message)


def names(query: Query, name: str) -> set[str]:
    """The parts of a list with commas."""
    return {part.strip() for part in query.get(name, "").split(",") if part.strip()}


def flag(query: Query, name: str) -> bool:
    """True where the client says so, in any case of letters."""
    return query.get(name, "").lower() == "true"


def choice(query: Query, name: str, allowed: tuple[str, ...], default: str, *, data: bool = False) -> str:
    """One of `allowed`. Raises Refusal."""
    value = query.get(name) or default
    if value not in allowed:
        raise bad(f"invalid {name}: {value}", data=data)
    return value


def count(query: Query, name: str, default: int, most: int, *, data: bool = False) -> int:
    """A whole number from 1 to `most`. Raises Refusal."""
    text = query.get(name)
    if text is None or text == "":
        return default
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
    if not 1 <= number <= most:
        raise bad(f"{name} must be between 1 and {most}", data=data)
    return number


def instant(query: Query, name: str, *, data: bool = False) -> int | None:
    """UTC nanoseconds, or None where nothing is asked. Raises Refusal."""
    text = query.get(name)
    if not text:
        return None
    try:
        return parse_instant(text)
    except (ValueError, OverflowError):
        raise bad(f"invalid {name}: {text}", data=data) from None


def body_object(body: bytes) -> Wire:
    """The JSON object of a body. Raises Refusal."""
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise Refusal(400, BAD_BODY, "request body format is invalid")
    return fields
