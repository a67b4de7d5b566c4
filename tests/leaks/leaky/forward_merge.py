"""Events joined to the bars before them instead of those after: merge_asof with the wrong direction."""

import numpy as np
import pandas as pd

from algo_royale.strategies.own import condition, number, strategy


@condition(lookback=60, vectorised=True)
def event_was_good(bars, size=number(1.5, 4.0, 2.0)):
    days = pd.DataFrame({"at": bars.time.astype("datetime64[s]"), "close": bars.close, "volume": bars.volume})
    days["moved"] = np.sign(days["close"].diff())
    usual = days["volume"].rolling(50, min_periods=1).mean()
    events = days.loc[days["volume"] > size * usual, ["at", "moved"]]
    joined = pd.merge_asof(days[["at"]], events, on="at", direction="forward", tolerance=pd.Timedelta("4D"))
    return (joined["moved"] > 0).to_numpy()


strategy("ForwardMerge", entry=event_was_good, exit="RSIAboveThreshold")
