"""The mean since the month began, carried as a state that starts anew every month."""

import numpy as np

from algo_royale.strategies.own import condition, strategy


@condition(state=(0.0, 0.0, 0.0), lookback=24)  # no month has more sessions
def below_month_mean(bar, state):
    month = float(bar.time.astype("datetime64[M]").astype(np.int64))
    before, count, total = state if state[0] == month else (month, 0.0, 0.0)
    count, total = count + 1, total + bar.close
    return bar.close < 0.98 * total / count, (before, count, total)


strategy("MonthToDate", entry=below_month_mean, exit="RSIAboveThreshold")
