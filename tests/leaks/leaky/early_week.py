"""Days compared with the close of their own week, which is there on Monday only after resampling."""

import pandas as pd

from algo_royale.strategies.own import condition, strategy


@condition(lookback=10, vectorised=True)
def below_week(bars):
    close = pd.Series(bars.close, index=pd.DatetimeIndex(bars.time))
    week = close.groupby(close.index.to_period("W")).transform("last")
    return (close < 0.98 * week).to_numpy()


strategy("EarlyWeek", entry=below_week, exit="RSIAboveThreshold")
