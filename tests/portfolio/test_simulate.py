"""Simulation over history: a worked example, and what no market can break (catalogue §17: 14 to 20, 24, 25)."""

import dataclasses
import datetime as dt
from collections import defaultdict
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale.costs import CostRules
from algo_royale.engine import EngineConfig
from algo_royale.errors import BadInput
from algo_royale.market import Bars, CorporateAction, Timeframe
from algo_royale.orders import OrderStatus
from algo_royale.portfolio.sizing import RESEARCH_RULES, TRADER_RULES, AccountRules, OrderPolicy, OrderType
from algo_royale.portfolio.weights import PORTFOLIOS, WeightConfig
from algo_royale.research.simulate import SimulationResult, SymbolInput, prepare, simulate
from algo_royale.sessions import calendar
from markets import DAY_NS, daily, day_ns, random_symbol, traded

D = Decimal
CASH = D(100_000)
FREE = CostRules(slippage_bps=D(0))
FOREVER = 2**62
HOUR_NS = 3_600_000_000_000
EQUAL = "EqualWeightPortfolioStrategy"
EVERY_RULE = [
    RESEARCH_RULES,
    TRADER_RULES,
    AccountRules(account="cash", costs=CostRules(commission_bps=D(3), commission_min=D(1), sec_fee_per_million=D(28))),
    AccountRules(account="cash", settlement_days=3, lot=D(1)),
    AccountRules(
        lot=D(1),
        shortfall="borrow",
        account="cash",
        costs=CostRules(price_tick=D("0.01"), commission_per_share=D("0.01")),
    ),
]


def run(inputs: dict[str, SymbolInput], *, since: int = 0, until: int = FOREVER, **changes: Any) -> SimulationResult:
    facts = {"ledger_id": "t", "symbols": tuple(inputs), "strategy": EQUAL, "rules": TRADER_RULES}
    return simulate(prepare(inputs, since, until), EngineConfig(**{**facts, **changes}), CASH)


def orders_of(result: SimulationResult) -> list[tuple[str, str, Decimal, OrderStatus, Decimal]]:
    return [(o.symbol, o.side, o.quantity, o.status, o.filled_quantity) for o in result.orders]


def test_four_days_worked_by_hand() -> None:
    """In after day 1, filled at the open of day 2; out after day 3, filled at the open of day 4."""
    a = traded(daily("A", [1, 2, 3, 4], [99, 101, 104, 110], [100, 102, 105, 111]), [True, True, False, False])

    result = run({"A": a})

    assert [(f.action, f.quantity, f.price, f.cash_after, f.position_after, f.timestamp) for f in result.fills] == [
        ("buy", D(350), D("101.0505"), D("64632.325"), D(350), day_ns(2)),  # 35 % of 100,000 at 100; 101 plus 5 bp
        ("sell", D(350), D("109.9450"), D("103113.075"), D(0), day_ns(4)),
    ]
    assert result.equity.tolist() == [100_000, 64_632.325 + 350 * 102, 64_632.325 + 350 * 105, 103_113.075]
    assert result.fills[0].slippage_cost == D("17.675")
    assert (result.final_equity, result.closed_equity) == (D("103113.075"), D("103113.075"))


def test_an_order_whose_symbol_has_no_bar_is_lost_and_decided_again() -> None:
    a = traded(daily("A", [1, 3, 4], [10, 10, 10], [10, 10, 10]), [True, True, True])
    b = traded(daily("B", [1, 2, 3, 4], [5, 5, 5, 5], [5, 5, 5, 5]), [False] * 4)

    result = run({"A": a, "B": b})

    assert orders_of(result) == [
        ("A", "buy", D(3500), OrderStatus.EXPIRED, D(0)),
        ("A", "buy", D(3500), OrderStatus.FILLED, D(3500)),
    ]
    assert [f.timestamp for f in result.fills] == [day_ns(3)]


def test_a_buy_that_a_gap_makes_too_dear_is_scaled_and_completed_later() -> None:
    """Research rules pay with the cash there is: the open doubles, half is bought, and the rest waits for cheaper days."""
    a = traded(daily("A", [1, 2, 3, 4], [10, 25, 10, 10], [10, 10, 10, 10]), [True] * 4)
    whole = WeightConfig(max_weight=0.5, cash_buffer=0.0)
    rules = AccountRules(lot=D(1), costs=FREE)

    result = run({"A": a}, rules=rules, weights=WeightConfig(max_weight=1.0, cash_buffer=0.0))

    assert orders_of(result)[0] == ("A", "buy", D(10_000), OrderStatus.EXPIRED, D(4_000))
    assert result.fills[0].cash_after == 0
    assert run({"A": a}, rules=rules, weights=whole).fills[0].quantity == 4_000  # 5000 wanted, 100,000 / 25 to be had


def test_the_trader_borrows_where_research_scales() -> None:
    a = traded(daily("A", [1, 2], [10, 25], [10, 25]), [True, True])
    result = run(
        {"A": a}, rules=AccountRules(lot=D(1), shortfall="borrow", costs=FREE), weights=WeightConfig(max_weight=1.0)
    )

    assert orders_of(result) == [("A", "buy", D(9_800), OrderStatus.FILLED, D(9_800))]
    assert result.cash[-1] == 100_000 - 9_800 * 25


def ranged(symbol: str, opened: tuple[float, float, float]) -> Bars:
    """Two days: a close of 100, then open, high and low as given and a close of 95."""
    bars = daily(symbol, [1, 2], [100, opened[0]], [100, 95])
    return dataclasses.replace(bars, high=np.array([100.0, opened[1]]), low=np.array([100.0, opened[2]]))


@pytest.mark.parametrize(("lot", "bought"), [("1", "897"), ("0.001", "897.308")])
@pytest.mark.parametrize("account", ["cash", "margin"])
def test_the_cash_buffer_is_never_spent(account: str, lot: str, bought: str) -> None:
    """A tenth of 100,000 dollars stays: 90,000 at 100.30 dollars a share are 897.308 shares, floored to the lot."""
    bars = daily("A", [1, 2], [100.3, 100.3], [100.3, 100.3])
    rules = AccountRules(lot=D(lot), costs=FREE, account=account, shortfall="borrow")

    result = run({"A": traded(bars, [True, True])}, rules=rules, weights=WeightConfig(max_weight=1.0, cash_buffer=0.1))

    assert [f.quantity for f in result.fills] == [D(bought)]
    assert result.fills[0].cash_after >= 10_000


LIMITED = [
    # open, high, low of the day after a close of 100 with a collar of 1 %: price, or None where it does not fill
    ("within the collar at the open", (100.5, 101, 90), "100.55025"),  # 5 bp worse than the open
    ("at the limit, whatever the slippage", (101, 101, 90), "101"),
    ("above it at the open, down to it later", (102, 103, 101), "101"),
    ("never as low", (102, 103, 101.01), None),
]


@pytest.mark.parametrize(("opened", "price"), [row[1:] for row in LIMITED], ids=[row[0] for row in LIMITED])
def test_a_marketable_limit_fills_within_its_collar_or_not_at_all(
    opened: tuple[float, float, float], price: str | None
) -> None:
    a = traded(ranged("A", opened), [True, True])
    rules = dataclasses.replace(TRADER_RULES, policy=OrderPolicy(type=OrderType.MARKETABLE_LIMIT, collar_bps=D(100)))

    result = run({"A": a}, rules=dataclasses.replace(rules, costs=CostRules()))

    assert [f.price for f in result.fills] == ([D(price)] if price else [])
    assert result.orders[0].limit_price_usd == D(101)
    assert result.orders[0].status is (OrderStatus.FILLED if price else OrderStatus.EXPIRED)


@pytest.mark.parametrize("rests", [False, True])
@pytest.mark.parametrize(("opened", "price"), [(101.0, "101"), (101.01, "101"), (101.02, None)])
def test_within_a_session_a_limit_trades_at_once_or_where_it_may_rest_once_the_bar_comes_to_it(
    rests: bool, opened: float, price: str | None
) -> None:
    """A close of 100 and a collar of 1 %; the next hour opens at the limit or above it, and comes down to a cent below its open."""
    bars = hourly("A", dt.date(2012, 11, 20), dt.date(2012, 11, 20)).traded.slice(0, 2)
    columns = {"open": [100.0, opened], "high": [100.0, 102.0], "low": [100.0, opened - 0.01], "close": [100.0, 101.5]}
    bars = dataclasses.replace(bars, **{name: np.array(values) for name, values in columns.items()})
    policy = OrderPolicy(type=OrderType.MARKETABLE_LIMIT, collar_bps=D(100), limit_rests=rests)

    result = run(
        {"A": traded(bars, [True, True])}, rules=dataclasses.replace(TRADER_RULES, policy=policy, costs=FREE),
        weights=WeightConfig(bars_per_year=Timeframe.HOUR_1.bars_per_year),
    )  # fmt: skip

    fills = price is not None and (rests or opened == 101.0)
    assert [f.price for f in result.fills] == ([D(str(price))] if fills else [])
    assert result.orders[0].status is (OrderStatus.FILLED if fills else OrderStatus.CANCELED)


@pytest.mark.parametrize(("policy", "price"), [("opening_auction", "102"), ("closing_auction", "95")])
def test_an_auction_fills_at_its_own_print(policy: str, price: str) -> None:
    a = traded(ranged("A", (102, 103, 90)), [True, True])
    rules = AccountRules(lot=D(1), shortfall="borrow", costs=FREE, policy=OrderPolicy(type=OrderType(policy)))

    result = run({"A": a}, rules=rules)

    assert [(f.price, f.timestamp) for f in result.fills] == [(D(price), day_ns(2))]


def test_limits_that_fill_within_the_day_are_paid_with_what_the_open_left() -> None:
    """Without credit the buy at the open comes first, and the one that the range reaches gets the rest."""
    inputs = {
        "A": traded(ranged("A", (102, 103, 101)), [True, True]),
        "B": traded(ranged("B", (100, 103, 100)), [True, True]),
    }
    rules = AccountRules(
        lot=D(1), costs=FREE, policy=OrderPolicy(type=OrderType.MARKETABLE_LIMIT, collar_bps=D(100), round_limits=False)
    )  # fmt: skip
    result = run(inputs, rules=rules, weights=WeightConfig(max_weight=1.0, cash_buffer=0.0))

    assert [(f.symbol, f.price, f.quantity) for f in result.fills] == [("B", D(100), D(500)), ("A", D(101), D(495))]


def test_an_open_position_is_marked_and_its_sale_costed() -> None:
    a = traded(daily("A", [1, 2], [10, 10], [10, 10]), [True, True])

    result = run({"A": a}, rules=AccountRules(costs=CostRules(slippage_bps=D(100))))

    assert result.final_equity == CASH - 350  # 3500 shares bought a tenth of a dollar too dear
    assert result.closed_equity == CASH - 700


def test_a_split_changes_no_equity_and_starts_no_order() -> None:
    a = daily("A", [1, 2, 3, 4], [70, 70, 10, 10], [70, 70, 10, 10])
    ex_date = dt.date(1970, 1, 1) + dt.timedelta(days=day_ns(3) // DAY_NS)
    action = CorporateAction(symbol="A", ex_date=ex_date, ratio=7.0)
    inside = np.ones(4, np.bool_)
    adjusted = np.full(4, 70.0)
    one = SymbolInput(traded=a, adjusted_close=adjusted, state_in=inside, score=np.ones(4), actions=(action,))

    result = run({"A": one}, rules=AccountRules(lot=D(1), shortfall="borrow", costs=FREE))

    assert result.equity.tolist() == [100_000] * 4
    assert len(result.orders) == 1 and result.state.account.quantity("A") == 3_500


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, SymbolInput], dict[str, Any], int]:
    seed, n = draw(st.integers(0, 100_000)), draw(st.integers(1, 4))
    gaps = draw(st.sampled_from([0.0, 0.1]))
    inputs = {
        s: random_symbol(s, seed + i, 70, gaps=gaps, flips=draw(st.sampled_from([0.05, 0.4])))
        for i, s in enumerate("DABC"[:n])
    }
    strategy = draw(st.sampled_from(sorted(PORTFOLIOS)))
    config = {
        "strategy": strategy, "params": {"lookback": 20} if PORTFOLIOS[strategy].space else {},
        "rules": draw(st.sampled_from(EVERY_RULE)), "rebalance": draw(st.sampled_from(["on_signal_change", "every_bar"])),
        "weights": WeightConfig(max_weight=draw(st.sampled_from([0.35, 1.0])), cash_buffer=draw(st.sampled_from([0.0, 0.02]))),
    }  # fmt: skip
    return inputs, config, day_ns(25)


common = settings(deadline=None, max_examples=40)


@common
@given(worlds())
def test_money_and_shares_are_conserved_and_rules_kept(world: tuple[Any, Any, int]) -> None:
    inputs, config, since = world
    result = run(inputs, since=since, **config)
    rules: AccountRules = config["rules"]
    cash, held, costs = CASH, defaultdict(Decimal), D(0)
    for row in result.fills:
        sign = 1 if row.action == "buy" else -1
        cash -= sign * row.quantity * row.price + row.commission + row.fees
        held[row.symbol] += sign * row.quantity
        costs += row.commission + row.fees
        assert (row.cash_after, row.position_after, row.notional) == (cash, held[row.symbol], row.quantity * row.price)
        assert row.quantity % rules.lot == 0 and held[row.symbol] >= 0
        assert row.cash_after >= 0 or rules.shortfall == "borrow"
    account = result.state.account
    assert account.cash == cash and account.fees == costs
    last = {s: D(repr(float(one.traded.close[-1]))) for s, one in inputs.items()}
    assert result.final_equity == cash + sum((q * last[s] for s, q in held.items()), D(0))
    unrealised = sum((q * (last[s] - account.positions[s].average_cost_usd) for s, q in held.items() if q), D(0))
    assert float(result.final_equity - CASH) == pytest.approx(
        float(account.realised_pnl + unrealised - costs), rel=1e-9, abs=1e-6
    )
    assert result.state.ignored_fills == 0
    for decision in result.decisions:
        weights = [t.weight for t in decision.targets]
        assert min(weights) >= 0 and max(weights) <= config["weights"].max_weight
        assert sum(weights) <= 1 - config["weights"].cash_buffer + 1e-12
        assert all(t.weight == 0 or t.state_in for t in decision.targets)


@common
@given(worlds())
def test_fills_come_after_their_signal_at_the_open_made_worse(world: tuple[Any, Any, int]) -> None:
    inputs, config, since = world
    result = run(inputs, since=since, **config)
    decided = {a.intent.client_order_id: d for d in result.decisions for a in d.approved}
    slip = config["rules"].costs.slippage_bps / 10_000
    for row in result.fills:
        decision = decided[row.fill_id.removesuffix(".1")]
        bars = inputs[row.symbol].traded
        at = bars.start_ns.tolist().index(row.timestamp)
        opened = D(repr(float(bars.open[at])))
        assert row.timestamp > decision.bar_end_ns
        assert all(int(b.traded.end_ns[k]) <= decision.bar_end_ns or int(b.traded.start_ns[k]) >= row.timestamp
                   for b in inputs.values() for k in range(len(b.traded)))  # fmt: skip
        worse = opened * (1 + slip if row.action == "buy" else 1 - slip)
        assert abs(row.price - worse) <= (config["rules"].costs.price_tick or 0)


@common
@given(worlds())
def test_unsettled_cash_is_never_spent_before_its_session(world: tuple[Any, Any, int]) -> None:
    """Re-derived from the fills alone: what sells brought in a session counts for buys only settlement_days sessions later."""
    inputs, config, since = world
    result = run(inputs, since=since, **config)
    rules: AccountRules = config["rules"]
    if rules.account != "cash":
        return
    starts = sorted({int(t) for one in inputs.values() for t in one.traded.start_ns if t >= since})
    session = {t: i for i, t in enumerate(starts)}
    settled, coming = CASH, defaultdict(Decimal)
    now = 0
    for row in result.fills:
        for passed in range(now + 1, session[row.timestamp] + 1):
            settled += coming.pop(passed, D(0))
        now = session[row.timestamp]
        value = row.notional + (1 if row.action == "buy" else -1) * (row.commission + row.fees)
        if row.action == "sell":
            coming[now + rules.settlement_days] += value
        else:
            settled -= value
            assert settled >= 0 or rules.shortfall == "borrow"
        assert row.unsettled_after == sum(coming.values(), D(0))


@common
@given(worlds(), st.integers(26, 69))
def test_the_future_changes_no_decision_of_the_past(world: tuple[Any, Any, int], day: int) -> None:
    inputs, config, since = world
    whole = run(inputs, since=since, **config)
    cut = run(inputs, since=since, until=day_ns(day), **config)

    n = len(cut.equity)
    assert cut.equity.tolist() == whole.equity[:n].tolist()
    assert list(cut.decisions) == [d for d in whole.decisions if d.bar_end_ns < day_ns(day)]
    assert list(cut.fills) == [f for f in whole.fills if f.timestamp < day_ns(day)]


@common
@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_in_which_symbols_are_listed_does_not_matter(world: tuple[Any, Any, int], random: Any) -> None:
    inputs, config, since = world
    names = list(inputs)
    random.shuffle(names)

    first = run(inputs, since=since, **config)
    second = run({name: inputs[name] for name in names}, since=since, **config)

    assert first.orders == second.orders and first.fills == second.fills and first.final_equity == second.final_equity


@common
@given(worlds())
def test_constant_prices_without_costs_leave_equity_alone(world: tuple[Any, Any, int]) -> None:
    inputs, config, since = world
    flat = {}
    for symbol, one in inputs.items():
        days = ((one.traded.start_ns - day_ns(0)) // DAY_NS).tolist()
        flat[symbol] = traded(daily(symbol, days, [8.0] * len(days), [8.0] * len(days)), one.state_in.tolist())
    rules = AccountRules(lot=config["rules"].lot, account=config["rules"].account, costs=FREE)

    result = run(flat, since=since, **{**config, "strategy": EQUAL, "params": {}, "rules": rules})

    assert set(result.equity.tolist()) == {100_000.0}


def test_all_cash_earns_nothing() -> None:
    one = random_symbol("A", 1, 50)
    out = SymbolInput(
        traded=one.traded, adjusted_close=one.adjusted_close, state_in=~one.state_in & one.state_in, score=one.score
    )

    result = run({"A": out})

    assert set(result.equity.tolist()) == {100_000.0} and result.orders == ()


@pytest.mark.parametrize("later", [5, 12, 20])
def test_a_signal_one_bar_later_fills_one_bar_later_and_changes_nothing_before(later: int) -> None:
    base = random_symbol("A", 7, 40, flips=0.0)
    first, second = np.arange(40) >= later, np.arange(40) >= later + 1
    one, two = (run({"A": traded(base.traded, inside.tolist())}) for inside in (first, second))

    assert [f.timestamp for f in one.fills] == [day_ns(later + 1)]
    assert [f.timestamp for f in two.fills] == [day_ns(later + 2)]
    assert one.equity[: later + 1].tolist() == two.equity[: later + 1].tolist()


def test_a_configuration_for_other_symbols_is_refused() -> None:
    market = prepare({"A": random_symbol("A", 1, 5)}, 0, FOREVER)
    with pytest.raises(BadInput, match="the market has"):
        simulate(market, EngineConfig(ledger_id="t", symbols=("B",), strategy=EQUAL), CASH)


def test_an_empty_range_gives_the_cash_back() -> None:
    result = run({"A": random_symbol("A", 1, 5)}, since=FOREVER - 1)

    assert (result.final_equity, len(result.equity), result.closed_equity) == (CASH, 0, CASH)


def test_weights_come_from_the_simple_returns_of_the_lookback_up_to_the_decision() -> None:
    inputs = {s: random_symbol(s, i, 80, flips=0.3) for i, s in enumerate("ABC")}

    result = run(
        inputs, since=day_ns(25), strategy="InverseVolatilityPortfolioStrategy", params={"lookback": 20},
        rebalance="every_bar", weights=WeightConfig(max_weight=1.0, cash_buffer=0.0),
    )  # fmt: skip

    for decision in result.decisions:
        last = inputs["A"].traded.end_ns.tolist().index(decision.bar_end_ns)
        raw = {}
        for symbol, one in inputs.items():
            closes = one.traded.close[last - 20 : last + 1]
            raw[symbol] = 1 / np.std(np.diff(closes) / closes[:-1], ddof=1) if one.state_in[last] else 0.0
        expected = [raw[s] / sum(raw.values()) if any(raw.values()) else 0.0 for s in "ABC"]
        assert [t.weight for t in decision.targets] == pytest.approx(expected, rel=1e-9)
    assert len(result.decisions) == 55


def hourly(symbol: str, first: dt.date, last: dt.date) -> SymbolInput:
    """Hourly bars of every session, rising a little with each bar, and always in."""
    starts, ends = [], []
    for session in calendar().sessions(first, last):
        start = session.label_ns + 9 * HOUR_NS
        while start < session.close_ns:
            starts.append(start)
            ends.append(min(start + HOUR_NS, session.close_ns))
            start += HOUR_NS
    n = len(starts)
    close = 100 + np.arange(n) * 0.1 + np.arange(n) % 2
    bars = Bars(
        symbol=symbol, timeframe=Timeframe.HOUR_1, start_ns=np.array(starts), end_ns=np.array(ends), open=close, high=close,
        low=close, close=close, volume=np.ones(n), vwap=np.full(n, np.nan), trade_count=np.full(n, -1, np.int64),
    )  # fmt: skip
    return traded(bars, [True] * n)


def test_a_strategy_that_ends_its_sessions_in_cash_sells_at_the_open_of_the_last_bar() -> None:
    """Three days around Thanksgiving's half session: out from 15:00 (12:00), in again after the first bar of the next day."""
    one = hourly("A", dt.date(2012, 11, 20), dt.date(2012, 11, 26))
    since = calendar().sessions(dt.date(2012, 11, 21), dt.date(2012, 11, 21))[0].label_ns
    config = {
        "strategy": "WinnerTakesAllPortfolioStrategy", "weights": WeightConfig(bars_per_year=Timeframe.HOUR_1.bars_per_year),
        "params": {"lookback": 5, "move_to_cash_at_end_of_day": True},
    }  # fmt: skip

    result = run({"A": one}, since=since, **config)
    overnight = run({"A": one}, since=since, **{**config, "params": {"lookback": 5}})

    filled = [(f.action, np.datetime64(f.timestamp, "ns").astype("datetime64[m]").item()) for f in result.fills]
    assert [(a, at.day, at.hour - 5) for a, at in filled] == [
        ("buy", 21, 10), ("sell", 21, 15), ("buy", 23, 10), ("sell", 23, 12), ("buy", 26, 10), ("sell", 26, 15),
    ]  # fmt: skip
    assert result.fills[-1].position_after == 0
    assert [f.action for f in overnight.fills] == ["buy"]
    assert all(
        not t.state_in
        for d in result.decisions
        if d.targets and not any(t.weight for t in d.targets)
        for t in d.targets
    )
