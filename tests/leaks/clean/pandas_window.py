"""pandas over the whole series, right aligned, with the lookback that it reads."""

import pandas as pd

from algo_royale.strategies.own import condition, integer, number, strategy


@condition(lookback=lambda days: days + 1, vectorised=True)
def squeezed(bars, days=integer(10, 40, 20), share=number(0.3, 0.9, 0.7)):
    moved = pd.Series(bars.close).pct_change()
    return (moved.abs() < share * moved.rolling(days).std()).to_numpy()


strategy("PandasWindow", entry=squeezed, exit="RSIAboveThreshold")
