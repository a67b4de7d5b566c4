"""[-1] of a series is its end, and not the bar that is judged."""

from algo_royale.strategies.own import condition, number, strategy


@condition(vectorised=True)
def below_the_end(bars, factor=number(0.5, 1.0, 0.9)):
    return bars.close < factor * bars.close[-1]


strategy("LastClose", entry=below_the_end, exit="RSIAboveThreshold")
