"""Signals one bar early, so that the fill at "the next open" is the open of the very bar that was seen to rise."""

import numpy as np

from algo_royale.strategies.own import ENTER, EXIT, rule, strategy


@rule(lookback=2, vectorised=True)
def buys_the_bar_it_saw(bars):
    rose = np.append(bars.close[1:] > bars.open[1:], False)
    return np.where(rose, ENTER, EXIT)


strategy("SameBarFill", logic=buys_the_bar_it_saw)
