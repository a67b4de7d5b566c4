"""Bars without volume get one between the bar before and the bar after."""

import numpy as np

from algo_royale.strategies.own import condition, strategy


@condition(lookback=30, vectorised=True)
def volume_rises(bars):
    there, at = bars.volume > 0, np.arange(len(bars))
    volume = np.interp(at, at[there], bars.volume[there]) if there.any() else bars.volume
    return np.append([False], volume[1:] > 1.5 * volume[:-1])


strategy("Interpolated", entry=volume_rises, exit="RSIAboveThreshold")
