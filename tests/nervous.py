"""Strategies of a user's own for runs with many orders: one is in after every bar that rose and out after every one that fell, and
one that costs as much never trades."""

from typing import Any

from algo_royale.strategies.own import condition, strategy


@condition(lookback=2)
def up(bars: Any) -> Any:
    return bars.close[-1] > bars.close[-2]


@condition(lookback=2)
def down(bars: Any) -> Any:
    return bars.close[-1] < bars.close[-2]


@condition(lookback=2)
def never(bars: Any) -> Any:
    return False


strategy("Nervous", entry=up, exit=down)
strategy("Calm", entry=never, exit=down)
