"""Standardised with mean and deviation of the whole series, as a scaler that was fitted on everything does."""

from algo_royale.strategies.own import condition, number, strategy


@condition(vectorised=True)
def far_below_mean(bars, depth=number(0.5, 2.0, 1.0)):
    return (bars.close - bars.close.mean()) / bars.close.std() < -depth


strategy("GlobalZScore", entry=far_below_mean, exit="RSIAboveThreshold")
