"""Compared with the close of the week before, which has ended: resampling as it should be."""

import numpy as np

from algo_royale.strategies.own import condition, number, strategy


@condition(lookback=12)
def above_last_week(bars, rise=number(0.0, 0.05, 0.01)):
    week = (bars.time.astype("datetime64[D]").astype(np.int64) + 3) // 7  # Monday is the first day
    before = bars.close[week < week[-1]]
    return len(before) > 0 and bool(bars.close[-1] > (1 + rise) * before[-1])


strategy("LastWeek", entry=above_last_week, exit="ReturnVolatilityExit")
