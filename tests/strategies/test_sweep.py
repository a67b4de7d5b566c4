"""A sweep gives what building, running and backtesting each point would, to the last bit."""

from decimal import Decimal

import numpy as np
import pytest

from algo_royale.costs import CostRules
from algo_royale.errors import BadInput
from algo_royale.market import Bars, Timeframe
from algo_royale.research.backtest import cost_array, run_arrays
from algo_royale.research.sweep import grid, sweep
from algo_royale.strategies import STRATEGIES, ParamSpec, build, resolve, space
from algo_royale.strategies.space import Params

HOUR = Timeframe.HOUR_1
COSTS = CostRules(commission_bps=Decimal(1))


def one_by_one(bars: Bars, name: str, points: list[Params], lot: float | None, start: int) -> list[tuple[int, float]]:
    """Trades and final equity of each point, through the public steps that the optimiser takes."""
    out = []
    for point in points:
        strategy = build(name, resolve(name, point, bars.timeframe), bars.timeframe)
        signal = strategy.run(bars, start=start).signal[start:]
        done = run_arrays(bars.open[start:], bars.close[start:], signal, cost_array(COSTS), 1e5, lot=lot)
        out.append((len(done.trades), float(done.equity[-1])))
    return out


def some(d: ParamSpec) -> list:
    """The default and the ends of a dimension."""
    if d.kind == "categorical":
        return [d.default, d.choices[0]]
    return [d.default, d.low if d.kind == "float" else int(d.low or 0)]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_sweep_is_every_point_on_its_own(name: str, walk, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Over more than one block of the machine and one stretch of features, all in and with a lot, from the first bar and
    from a later one."""
    bars = walk(7, 4500, HOUR)
    points = grid({d.name: some(d) for d in space(name, HOUR)[:3]})
    complete = [{d.name: d.default for d in space(name, HOUR)} | point for point in points]

    for lot, start, stretch in ((None, 0, 8192), (100.0, 333, 1000)):
        monkeypatch.setattr("algo_royale.research.sweep._STRETCH", stretch)
        done = sweep(bars, name, points, COSTS, 1e5, lot=lot, start=start)

        assert list(done.points) == complete
        assert list(zip(done.trades.tolist(), done.final_equity.tolist(), strict=True)) == one_by_one(
            bars, name, complete, lot, start
        )
    assert done.trades.sum() > 0


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 2047, 2048, 2049])
def test_a_sweep_ends_where_the_bars_do(n: int, walk) -> None:  # type: ignore[no-untyped-def]
    """Wherever the end lies between groups of eight bars and blocks."""
    bars, points = walk(3, max(n, 1), HOUR).slice(0, n), [{"entry.WickReversalEntry.ratio": 1.2}]
    complete = [{d.name: d.default for d in space("WickReversalStrategy", HOUR)} | points[0]]

    done = sweep(bars, "WickReversalStrategy", points, COSTS, 1e5)

    assert done.trades.tolist() == ([one_by_one(bars, "WickReversalStrategy", complete, None, 0)[0][0]] if n else [0])
    assert done.final_equity.tolist() == (
        [one_by_one(bars, "WickReversalStrategy", complete, None, 0)[0][1]] if n else [1e5]
    )


def test_little_room_for_shared_features_changes_nothing(walk) -> None:  # type: ignore[no-untyped-def]
    bars, points = walk(5, 3000, HOUR), grid({"shared.short_window": [5, 9], "shared.gap": [20, 31, 60]})

    ample, none = (sweep(bars, "MovingAverageStrategy", points, COSTS, bytes_max=b) for b in (2**27, 0))

    np.testing.assert_array_equal(ample.final_equity, none.final_equity)
    assert ample.trades.tolist() == none.trades.tolist()


def test_an_unknown_dimension_is_named(walk) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match=r"no dimension gap.*shared\.gap"):
        sweep(walk(1, 50, HOUR), "MovingAverageStrategy", [{"gap": 3}], COSTS)
