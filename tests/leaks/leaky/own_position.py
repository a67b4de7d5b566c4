"""A position kept in a module variable: it is not flat where a period begins, nor in another run."""

from algo_royale.strategies.own import ENTER, EXIT, HOLD, rule, strategy

HELD = {"since": None}


@rule(lookback=3)
def hold_five_days(bars):
    if HELD["since"] is None:
        if bars.close[-1] < bars.close[0]:
            HELD["since"] = 0
            return ENTER
        return HOLD
    HELD["since"] += 1
    if HELD["since"] < 5:
        return HOLD
    HELD["since"] = None
    return EXIT


strategy("OwnPosition", logic=hold_five_days)
