"""An honest function, and a fast form that stands in for it and leaves out the last bar."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from algo_royale.strategies.own import condition, integer, strategy


@condition(lookback="days")
def at_the_high(bars, days=integer(5, 40, 20)):
    return bars.close[-1] >= bars.close.max()


@at_the_high.vectorised
def _(bars, days):
    out = np.zeros(len(bars), bool)
    out[days - 1 :] = bars.close[days - 1 :] >= sliding_window_view(bars.close, days)[:, :-1].min(axis=1)
    return out


strategy("WrongStandIn", entry=at_the_high, exit="RSIAboveThreshold")
