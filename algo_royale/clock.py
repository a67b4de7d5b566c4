"""Clocks. Time enters the program here and nowhere else."""

import time
from typing import Protocol


class Clock(Protocol):
    def now_ns(self) -> int:
        """UTC nanoseconds since the epoch."""
        ...


class WallClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic_s(self) -> float:
        """Seconds that never run backwards, for durations only."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is moved; it never runs backwards."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        return self._now_ns

    def move_to(self, when_ns: int) -> None:
        self._now_ns = max(self._now_ns, when_ns)


class ScaledClock:
    """Virtual time that runs `speed` times as fast as the wall clock from one shared anchor."""

    def __init__(self, *, virtual_start_ns: int, wall_start_ns: int, speed: float) -> None:
        self._virtual, self._wall, self.speed = virtual_start_ns, wall_start_ns, speed

    def now_ns(self) -> int:
        return self._virtual + int((time.time_ns() - self._wall) * self.speed)
