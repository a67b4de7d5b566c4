"""Splits and dividends in the middle of a window: signals see adjusted prices, shares are counted on raw ones, and equity is right."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from algo_royale.costs import CostRules
from algo_royale.data.adjust import forward_adjusted
from algo_royale.data.catalog import Catalog, bundled, open_catalog
from algo_royale.engine import EngineConfig
from algo_royale.market import Bars, CorporateAction, FloatArray, Timeframe
from algo_royale.portfolio.sizing import RESEARCH_RULES, TRADER_RULES, AccountRules
from algo_royale.portfolio.weights import WeightConfig
from algo_royale.research import backtest
from algo_royale.research.plan import series
from algo_royale.research.simulate import SimulationResult, SymbolInput, prepare, simulate
from conftest import shared

DAY = Timeframe.DAY_1
FREE = CostRules(slippage_bps=Decimal(0))
ALL_IN = WeightConfig(cash_buffer=0.0, max_weight=1.0)
# 100 dollars; 4 of them are paid out on the fourth; two for one on the eighth, ten for one the other way on the tenth
ROWS = """timestamp,open,high,low,close,volume,ex_dividend,split_ratio
2013-01-02,100,100,100,100,1000,,
2013-01-03,100,100,100,100,1000,,
2013-01-04,96,96,96,96,1000,4,
2013-01-07,96,96,96,96,1000,,
2013-01-08,48,54,48,54,2000,,2
2013-01-09,54,54,54,54,2000,,
2013-01-10,540,550,540,550,200,,0.1
2013-01-11,550,550,550,550,200,,
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "X.csv").write_text(ROWS)
    return tmp_path


def held(bars: Bars) -> np.ndarray:
    """In from the first close on."""
    signal = np.zeros(len(bars), np.int8)
    signal[0] = 1
    return signal


def simulated(
    catalog: Catalog, symbol: str, traded: Bars, adjusted: FloatArray, rules: AccountRules
) -> SimulationResult:
    actions = catalog.actions(symbol) if rules is not RESEARCH else ()
    one = SymbolInput(
        traded=traded, adjusted_close=adjusted, state_in=np.ones(len(traded), bool), score=np.ones(len(traded)), actions=actions
    )  # fmt: skip
    config = EngineConfig(
        ledger_id="t", symbols=(symbol,), strategy="EqualWeightPortfolioStrategy", rules=rules, weights=ALL_IN
    )
    return simulate(prepare({symbol: one}, 0, 2**62), config, Decimal(96_000))


RESEARCH = AccountRules(costs=FREE, lot=RESEARCH_RULES.lot, drift_band=Decimal("0.5"))
TRADER = AccountRules(costs=FREE, lot=TRADER_RULES.lot, shortfall=TRADER_RULES.shortfall, drift_band=Decimal("0.5"))


def test_research_is_as_rich_as_one_who_reinvests(folder: Path) -> None:
    """960 shares at 100; 4 dollars each buy 960 * 4 / 96 = 40 more; 2,000 after the split, 200 after the reverse one, at 550."""
    bars = series(str(folder), "X", DAY).bars
    result = backtest.run(bars, held(bars), FREE, 96_000.0)

    assert result.equity.tolist() == pytest.approx([96_000, 96_000, 96_000, 96_000, 108_000, 108_000, 110_000, 110_000], rel=1e-12)  # fmt: skip
    assert result.trades.returns.tolist() == pytest.approx([110 / 96 - 1], rel=1e-12)


def test_the_portfolio_of_research_is_as_rich(folder: Path) -> None:
    data = series(str(folder), "X", DAY)
    result = simulated(open_catalog(folder), "X", data.bars, data.bars.close, RESEARCH)

    assert result.equity.tolist() == pytest.approx([96_000, 96_000, 96_000, 96_000, 108_000, 108_000, 110_000, 110_000], rel=1e-9)  # fmt: skip


def test_the_trader_counts_raw_shares(folder: Path) -> None:
    """960 shares at 100, 1,920 after the split, 192 after the reverse one. The paper account pays no dividend: its 4 are lost."""
    data = series(str(folder), "X", DAY)
    result = simulated(open_catalog(folder), "X", data.raw, data.bars.close, TRADER)

    assert [(f.quantity, f.price) for f in result.fills] == [(960, 100)]
    assert result.equity.tolist() == [96_000, 96_000, 92_160, 92_160, 103_680, 103_680, 105_600, 105_600]
    assert result.state.account.quantity("X") == 192


def test_signals_see_no_jump_where_only_the_scale_changed(folder: Path) -> None:
    """Returns of the adjusted closes are those of the investor: nothing on the ex-dates but what the market did."""
    close = series(str(folder), "X", DAY).bars.close

    assert (close[1:] / close[:-1] - 1).tolist() == pytest.approx([0, 0, 0, 0.125, 0, 1 / 54, 0], abs=1e-15)


def apple() -> tuple[Bars, tuple[CorporateAction, ...], np.ndarray]:
    """AAPL 2012-2014 raw, its actions, and the source's own adjusted closes of the same sessions."""
    raw = open_catalog(shared("data/lean/daily_raw")).bars("AAPL", DAY, date(2012, 1, 1), date(2014, 12, 31))
    rows = pyarrow.csv.read_csv(shared("data/lean/corporate_actions.csv")).to_pylist()
    actions = tuple(
        CorporateAction(symbol="AAPL", ex_date=r["ex_date"], ratio=(r["split_new"] or 1) / (r["split_old"] or 1), cash_usd=r["cash_amount"] or 0.0)
        for r in rows
        if r["symbol"] == "AAPL" and date(2012, 1, 1) <= r["ex_date"] <= date(2014, 12, 31)
    )  # fmt: skip
    table = pq.read_table(shared("data/lean/daily_adjusted/AAPL.parquet"))
    starts = np.array(table["timestamp"].cast("int64"))
    inside = np.isin(starts, raw.start_ns)
    return raw, actions, np.array(table["close"])[inside]


def test_apple_from_2012_to_2014_is_what_the_source_says() -> None:
    """Seven for one and ten dividends: whoever holds it is at every close as rich as the source's adjusted series."""
    raw, actions, theirs = apple()
    bars = forward_adjusted(raw, actions)
    result = backtest.run(bars, held(bars), FREE, 100_000.0)
    first = raw.open[1] / raw.close[1]  # bought at the open of the second session

    assert (len(raw), len(actions)) == (754, 11)
    assert (result.equity[1:] / 100_000 * first).tolist() == pytest.approx((theirs[1:] / theirs[1]).tolist(), rel=2e-5)


def test_apples_shares_multiply_by_seven() -> None:
    raw, actions, _ = apple()
    one = SymbolInput(
        traded=raw, adjusted_close=forward_adjusted(raw, actions).close, state_in=np.ones(len(raw), bool),
        score=np.ones(len(raw)), actions=actions,
    )  # fmt: skip
    config = EngineConfig(
        ledger_id="t", symbols=("AAPL",), strategy="EqualWeightPortfolioStrategy", rules=TRADER, weights=ALL_IN
    )
    result = simulate(prepare({"AAPL": one}, 0, 2**62), config, Decimal(100_000))
    quantity = result.fills[0].quantity

    assert len(result.fills) == 1
    assert result.state.account.quantity("AAPL") == 7 * quantity
    assert float(result.final_equity) == pytest.approx(
        float(result.cash[-1]) + 7 * float(quantity) * raw.close[-1], rel=1e-12
    )


@pytest.mark.parametrize("symbol", ["AAPL", "IBM", "MSFT"])
def test_the_bundled_actions_give_the_publishers_own_adjusted_closes(symbol: str) -> None:
    """Another source with another formula: a dividend is 1 + cash / close of the ex-date. Over thirteen years the two stay together."""
    table = pq.read_table(shared(f"data/public_domain/daily_adjusted/{symbol}.parquet"))
    theirs = np.array(table["close"])
    ours = bundled().adjusted(symbol, DAY).close
    quotient = ours / theirs

    assert quotient.max() / quotient.min() == pytest.approx(1.0, abs=5e-3)
