"""The mean of everything so far: it looks only back, but where history begins it never forgets."""

from algo_royale.strategies.own import condition, strategy


@condition(state=(0.0, 0.0), lookback=100)
def below_mean_of_all_time(bar, state):
    count, total = state[0] + 1, state[1] + bar.close
    return bar.close < total / count, (count, total)


strategy("MeanOfAllTime", entry=below_mean_of_all_time, exit="RSIAboveThreshold")
