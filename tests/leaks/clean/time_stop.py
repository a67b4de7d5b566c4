"""A rule that knows the position: in at a low of some days, out after a profit, a loss or a week."""

from algo_royale.strategies.own import ENTER, EXIT, HOLD, integer, return_threshold, rule, strategy


@rule(lookback="days")
def low_with_time_stop(
    bars, position, days=integer(3, 20, 5), hold=integer(2, 15, 7), target=return_threshold(0.01, 0.2, 0.05)
):
    if not position.is_in:
        return ENTER if bars.close[-1] <= bars.close.min() and position.bars_since_exit > 2 else HOLD
    gain = bars.close[-1] / position.entry_price - 1
    over = position.bars_held >= hold or gain > target or bars.close[-1] < 0.9 * position.high_since_entry
    return EXIT if over else HOLD


strategy("TimeStop", logic=low_with_time_stop, trend="TrendAboveSMA")
