"""Near the lowest price of the whole series, which nobody knows before it ends."""

from algo_royale.strategies.own import condition, number, strategy


@condition(vectorised=True)
def near_the_low(bars, distance=number(0.02, 0.5, 0.2)):
    return bars.close < (1 + distance) * bars.low.min()


strategy("LowestOfAll", entry=near_the_low, exit="RSIAboveThreshold")
