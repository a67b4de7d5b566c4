"""The base of everything that actors tell each other."""

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An immutable fact or command. `at_ns` is the UTC time of the fact, not of its handling.

    Messages hold plain data only: no refs (paths instead), no arrays, no exceptions, no keys.
    """

    at_ns: int
