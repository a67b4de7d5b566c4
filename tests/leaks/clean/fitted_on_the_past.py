"""A regression fitted anew on the bars that have been: the training ends where the prediction begins."""

import numpy as np

from algo_royale.strategies.own import condition, feature, integer, number, strategy


@feature(lookback="days")
def predicted(bars, days=integer(30, 90, 60)):
    moved = np.diff(bars.close) / bars.close[:-1]
    x, y = moved[:-1], moved[1:]
    spread = np.dot(x - x.mean(), x - x.mean())
    slope = np.dot(x - x.mean(), y - y.mean()) / spread if spread > 0 else 0.0
    return y.mean() + slope * (moved[-1] - x.mean())


@condition(uses=(predicted, "rsi"))
def past_says_up(bars, least=number(0.0, 0.003, 0.001)):
    return bars.predicted[-1] > least and bars.rsi[-1] < 60


strategy("FittedOnThePast", entry=past_says_up, exit="RSIAboveThreshold")
