"""The return of the next bar as if it were known: shift(-1)."""

import pandas as pd

from algo_royale.strategies.own import condition, return_threshold, strategy


@condition(lookback=2, vectorised=True)
def rises_tomorrow(bars, rise=return_threshold(0.001, 0.03, 0.01)):
    return (pd.Series(bars.close).pct_change().shift(-1) > rise).to_numpy()


strategy("NegativeShift", entry=rises_tomorrow, exit="RSIAboveThreshold")
