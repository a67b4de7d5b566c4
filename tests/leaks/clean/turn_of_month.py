"""A calendar effect: in for the first days of a month, by the date of the bar alone."""

import numpy as np

from algo_royale.strategies.own import ENTER, EXIT, integer, rule, strategy


@rule
def turn_of_month(bars, days=integer(2, 8, 4)):
    day = (bars.time[-1].astype("datetime64[D]") - bars.time[-1].astype("datetime64[M]")).astype(np.int64)
    return ENTER if day < days else EXIT


strategy("TurnOfMonth", logic=turn_of_month)
