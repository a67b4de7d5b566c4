"""A new high of some days, with a fast form for all bars at once."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from algo_royale.strategies.own import condition, integer, strategy


@condition(lookback=lambda days: days + 1)
def new_high(bars, days=integer(5, 60, 20)):
    return bars.close[-1] > bars.high[:-1].max()


@new_high.vectorised
def _(bars, days):
    out = np.zeros(len(bars), bool)
    out[days:] = bars.close[days:] > sliding_window_view(bars.high[:-1], days).max(axis=1)
    return out


strategy("Breakout", entry=new_high, exit="MACDBearishCross", logic="TrailingStop")
