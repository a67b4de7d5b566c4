"""Month-end values, filled backwards over the month that led to them."""

import numpy as np
import pandas as pd

from algo_royale.strategies.own import condition, strategy


@condition(lookback=25, vectorised=True)
def below_month_end(bars):
    month = bars.time.astype("datetime64[M]")
    ends = np.append(month[1:] != month[:-1], True)
    filled = pd.Series(np.where(ends, bars.close, np.nan)).bfill()
    return bars.close < 0.97 * filled.to_numpy()


strategy("Backfilled", entry=below_month_end, exit="RSIAboveThreshold")
