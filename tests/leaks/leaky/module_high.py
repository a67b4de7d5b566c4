"""The highest close that this module has ever been shown, in whichever run."""

from algo_royale.strategies.own import condition, number, strategy

SEEN = [0.0]


@condition
def far_from_high(bars, distance=number(0.05, 0.5, 0.2)):
    SEEN[0] = max(SEEN[0], float(bars.close[-1]))
    return bars.close[-1] < (1 - distance) * SEEN[0]


strategy("ModuleHigh", entry=far_from_high, exit="RSIAboveThreshold")
