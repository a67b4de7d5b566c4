"""How many requests may still be sent: fewer than the broker allows in any minute, and some of them kept for what is urgent."""

from collections import deque

from algo_royale.errors import BrokerUnavailable

SECOND_NS, MINUTE_NS = 1_000_000_000, 60_000_000_000


class Budget:
    """At most `per_minute` requests in any sixty seconds (None: any number), the last `reserve` of them for cancels.

    The broker counts by its own minutes, so the window slides here: whatever its minutes are, no one of them sees more. Pure: the
    time is the caller's.
    """

    def __init__(self, per_minute: int | None, reserve: int = 20) -> None:
        self._most = per_minute
        self._reserve = 0 if per_minute is None else min(reserve, per_minute // 2)
        self._sent_ns: deque[int] = deque()  # of the last minute, one entry per request
        self._paused_ns = 0

    def wait_ns(self, now_ns: int, count: int = 1, *, urgent: bool = False) -> int:
        """How long until `count` requests may be sent; 0: now. `count` is cut to what a minute holds."""
        pause_ns = max(0, self._paused_ns - now_ns)
        if self._most is None:
            return pause_ns
        self._forget(now_ns)
        most = self._most if urgent else self._most - self._reserve
        over = len(self._sent_ns) + min(count, most) - most
        if over <= 0:
            return pause_ns
        return max(pause_ns, self._sent_ns[over - 1] + MINUTE_NS - now_ns)

    def spend(self, now_ns: int, count: int = 1) -> None:
        """`count` requests were sent."""
        if self._most is not None:
            self._sent_ns.extend([now_ns] * count)

    def heed(self, error: Exception, now_ns: int) -> None:
        """Where the broker said that we ask too often, nothing may be sent until it will hear us again."""
        if isinstance(error, BrokerUnavailable) and error.retry_after_s is not None:
            self._paused_ns = max(self._paused_ns, now_ns + round(error.retry_after_s * SECOND_NS))

    def left(self, now_ns: int) -> int | None:
        """Requests that may be sent now by what is urgent."""
        if self._most is None:
            return None
        self._forget(now_ns)
        return max(0, self._most - len(self._sent_ns))

    def _forget(self, now_ns: int) -> None:
        while self._sent_ns and self._sent_ns[0] <= now_ns - MINUTE_NS:
            self._sent_ns.popleft()
