"""The hash of a word, which every process draws anew."""

from algo_royale.strategies.own import condition, strategy


@condition
def lucky_day(bars):
    return hash(str(bars.time[-1])) % 10 == 0


strategy("HashOrder", entry=lucky_day, exit="RSIAboveThreshold")
