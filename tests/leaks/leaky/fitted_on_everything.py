"""A regression of the next return on the last one, fitted on all rows, those it is tested on among them."""

import numpy as np

from algo_royale.strategies.own import condition, number, strategy


@condition(lookback=2, vectorised=True)
def model_says_up(bars, least=number(-0.001, 0.001, 0.0)):
    moved = np.concatenate(([0.0], np.diff(bars.close) / bars.close[:-1]))
    x, y = moved[:-1] - moved[:-1].mean(), moved[1:]
    slope = np.dot(x, y) / np.dot(x, x)
    return y.mean() + slope * (moved - moved[:-1].mean()) > least


strategy("FittedOnEverything", entry=model_says_up, exit="RSIAboveThreshold")
