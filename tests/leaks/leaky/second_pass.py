"""Honest when it sees a series for the first time, and a prophet the second time: it keeps what it saw by date."""

import numpy as np

from algo_royale.strategies.own import condition, strategy

CLOSES = {}


@condition
def remembers_next_week(bars):
    today = bars.time[-1]
    CLOSES[today] = bars.close[-1]
    later = [CLOSES[day] for day in today + np.arange(3, 7) * np.timedelta64(1440, "m") if day in CLOSES]
    return bool(later) and later[0] > bars.close[-1]


strategy("SecondPass", entry=remembers_next_week, exit="RSIAboveThreshold")
