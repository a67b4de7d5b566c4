"""The rank of each close among all closes of the series, later ones included."""

import numpy as np

from algo_royale.strategies.own import condition, number, strategy


@condition(vectorised=True)
def among_the_lowest(bars, share=number(0.1, 0.5, 0.3)):
    rank = np.argsort(np.argsort(bars.close)) / len(bars)
    return rank < share


strategy("Ranked", entry=among_the_lowest, exit="RSIAboveThreshold")
