"""A mean of fifty bars that asks for one: with all bars at once it works, and bar by bar it is never there."""

import pandas as pd

from algo_royale.strategies.own import condition, strategy


@condition(lookback=1, vectorised=True)
def above_mean(bars):
    return (pd.Series(bars.close).rolling(50).mean() < bars.close).to_numpy()


strategy("TooFewBars", entry=above_mean, exit="RSIAboveThreshold")
