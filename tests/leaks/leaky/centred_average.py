"""The average around each bar, half of it from bars that are still to come."""

import pandas as pd

from algo_royale.strategies.own import condition, integer, strategy


@condition(lookback="days", vectorised=True)
def under_centred_average(bars, days=integer(5, 40, 11)):
    around = pd.Series(bars.close).rolling(days, center=True, min_periods=1).mean().to_numpy()
    return bars.close < 0.99 * around


strategy("CentredAverage", entry=under_centred_average, exit="RSIAboveThreshold")
