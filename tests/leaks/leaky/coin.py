"""A coin without a seed."""

import numpy as np

from algo_royale.strategies.own import condition, strategy

COIN = np.random.default_rng()


@condition
def heads(bars):
    return bool(COIN.random() < 0.1)


strategy("Coin", entry=heads, exit="RSIAboveThreshold")
