"""The ledger's money against a model in fractions that starts anew from the whole history at every look."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal as D
from fractions import Fraction as F

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo_royale.errors import LedgerError
from algo_royale.ledger import Position
from algo_royale.orders import Fill, OrderEvent, OrderIntent, OrderStatus
from databases import new_schema
from db.admin import check
from db.database import Place, execute
from db.store import NewDecision, NewEntry, SessionClose, Store

MONDAY = date(2012, 1, 2)
DAY_NS = 86_400_000_000_000
NOON_NS = 1_325_523_600_000_000_000  # of MONDAY in New York
TINY = F(1, 10**12)
LOT = D("1e-9")


@dataclass
class Model:
    """Everything that happened, and the account that follows from it; total cost instead of average, no state carried on."""

    opening: F = F(100_000)
    held_first: dict[str, tuple[F, F]] = field(default_factory=dict)  # (quantity, total cost)
    happened: list[tuple[str, str, F, F | None]] = field(default_factory=list)  # (key, symbol, signed shares, price)
    cash: list[tuple[str, F, str]] = field(default_factory=list)  # (class, amount, settles on)
    fees: dict[str, F] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def fill(self, key: str, symbol: str, signed: D, price: D, fee: D) -> None:
        self.happened.append((key, symbol, F(signed), F(price)))
        self.fees[key] = F(fee)

    def positions(self) -> tuple[dict[str, tuple[F, F]], F]:
        """(quantity, total cost) by symbol, and the profit realised."""
        held, realised = dict(self.held_first), F(0)
        for key, symbol, signed, price in self.happened:
            if key in self.gone:
                continue
            quantity, cost = held.get(symbol, (F(0), F(0)))
            if price is None:
                kept = (quantity + signed) * quantity > 0  # else nothing is left of what was paid
                realised -= F(0) if kept else cost
                held[symbol] = (quantity + signed, cost if kept else F(0))
                continue
            closed = min(abs(signed), abs(quantity)) if quantity * signed < 0 else F(0)
            if closed:
                part = cost * closed / abs(quantity)
                realised += (price * closed if quantity > 0 else -price * closed) - part
                cost -= part
            opened = abs(signed) - closed
            cost += opened * price * (1 if signed > 0 else -1)
            held[symbol] = (quantity + signed, cost)
        return {symbol: part for symbol, part in held.items() if part[0]}, realised

    def cash_now(self) -> F:
        fills = sum(
            (-s * p - self.fees[k] for k, _, s, p in self.happened if p is not None and k not in self.gone), F(0)
        )
        return self.opening + fills + sum((amount for _, amount, _ in self.cash), F(0))

    def total(self, kind: str) -> F:
        return sum((amount for k, amount, _ in self.cash if k == kind), F(0))


class Bench:
    """A store and the model beside it, told the same."""

    def __init__(self, place: Place = None) -> None:
        self.store = Store.open(place, run_id="r", now_ns=NOON_NS - DAY_NS, live_start_ns=0, ledger_id="l")
        self.model = Model(held_first={"B": (F(40), F(40) * F(7))})
        self.day, self.count = 0, 0
        self.fills: list[Fill] = []
        self.sold: dict[str, tuple[str, F]] = {}
        self.reconcile(D(100_000), {"B": Position(D(40), D(7))})

    @property
    def now_ns(self) -> int:
        return NOON_NS + self.day * DAY_NS + self.count

    @property
    def today(self) -> str:
        return (MONDAY + timedelta(days=self.day)).isoformat()

    def reconcile(self, cash: D, positions: dict[str, Position], entries: tuple[NewEntry, ...] = ()) -> None:
        outcome = self.store.reconcile(
            cause_of="test", checked=1, cash_usd=cash, equity_usd=cash, positions=positions, now_ns=self.now_ns,
            entries=entries,
        )  # fmt: skip
        assert outcome.agreed, outcome.differences

    def trade(self, symbol: str, side: str, quantity: D, price: D, fee: D, part: D = D(0)) -> None:
        """An order that fills at once, or a part of it first."""
        self.count += 1
        n = self.count
        intent = OrderIntent(
            client_order_id=f"o-{n}", symbol=symbol, side=side, quantity=quantity, reference_price_usd=price
        )
        decision = NewDecision(
            decision_id=f"d-{n}", bar_end_ns=n, session_date=self.today, equity_usd=D(1), cash_usd=D(1), strategy="s",
            targets="[]", approved=(intent,),
        )  # fmt: skip
        self.store.record_decision(decision, now_ns=self.now_ns)
        first = (quantity * part).quantize(LOT) if part else D(0)
        for so_far, execution in ((first, "p"), (quantity, "e")):
            if not so_far:
                continue
            fill = Fill(
                execution_id=f"{execution}-{n}", client_order_id=f"o-{n}", broker_order_id=f"b-{n}", symbol=symbol, side=side,
                quantity=so_far if execution == "p" else quantity - first, cumulative_quantity=so_far, price_usd=price,
                fees_usd=fee, at_ns=self.now_ns,
            )  # fmt: skip
            self.book(fill, OrderEvent.PARTIAL_FILL if execution == "p" else OrderEvent.FILL)

    def book(self, fill: Fill, event: OrderEvent, reversed_execution_id: str = "") -> None:
        tomorrow = (MONDAY + timedelta(days=self.day + 1)).isoformat()
        self.store.record_order_event(
            fill.client_order_id, event, broker_order_id=fill.broker_order_id, fill=fill, now_ns=self.now_ns,
            settles_on=tomorrow if fill.side == "sell" else "", reversed_execution_id=reversed_execution_id,
        )  # fmt: skip
        signed = fill.quantity if fill.side == "buy" else -fill.quantity
        self.model.fill(fill.execution_id, fill.symbol, signed, fill.price_usd, fill.fees_usd)
        proceeds = -F(signed) * F(fill.price_usd) - F(fill.fees_usd)
        if fill.side == "sell" and proceeds > 0:
            self.sold[fill.execution_id] = (tomorrow, proceeds)
        self.fills.append(fill)

    def take_back(self, n: int, corrected: tuple[D, D, D] | None) -> None:
        """Bust the n-th fill that still stands, or correct its price, fee and quantity (to a part of it)."""
        standing = [fill for fill in self.fills if fill.execution_id not in self.model.gone]
        if not standing:
            return
        old = standing[n % len(standing)]
        self.count += 1
        self.model.gone.add(old.execution_id)
        self.sold.pop(old.execution_id, None)
        if corrected is None:
            change = self.store.record_order_event(
                old.client_order_id, OrderEvent.TRADE_BUST, reversed_execution_id=old.execution_id, now_ns=self.now_ns
            )
            assert change.applied
            return
        price, fee, part = corrected
        quantity = (old.quantity * part).quantize(LOT)
        new = Fill(
            execution_id=f"c-{self.count}", client_order_id=old.client_order_id, broker_order_id=old.broker_order_id,
            symbol=old.symbol, side=old.side, quantity=quantity, price_usd=price, fees_usd=fee, at_ns=self.now_ns,
            cumulative_quantity=old.cumulative_quantity - old.quantity + quantity,
        )  # fmt: skip
        self.book(new, OrderEvent.TRADE_CORRECT, old.execution_id)

    def entry(self, kind: str, amount: D) -> None:
        self.count += 1
        facts = self.store.facts(now_ns=self.now_ns)
        assert facts.cash_usd is not None
        told = NewEntry(f"a-{self.count}", kind, "", D(0), amount, self.now_ns)
        self.reconcile(facts.cash_usd + amount, dict(facts.positions), (told,))
        self.model.cash.append((kind, F(amount), ""))

    def round_off(self, cents: int) -> None:
        """The broker's cash is apart by what may be rounding."""
        self.count += 1
        facts = self.store.facts(now_ns=self.now_ns)
        assert facts.cash_usd is not None
        self.reconcile(facts.cash_usd + D(cents) / 100, dict(facts.positions))
        self.model.cash.append(("rounding", F(cents, 100), ""))

    def split(self, symbol: str, ratio: F, in_lieu: D | None, whole: bool) -> None:
        """So many new shares for an old one, to nine places, or with a remainder paid `in_lieu` each to whole ones; told as the
        difference or (`whole`) as all old shares going and the new ones coming. A ratio of 0 takes them all."""
        self.count += 1
        facts = self.store.facts(now_ns=self.now_ns)
        held = facts.positions.get(symbol)
        if held is None or facts.cash_usd is None:
            return
        old, exactly = held.quantity, F(held.quantity) * ratio
        sign = 1 if old > 0 else -1
        step = F(1, 10**9) if in_lieu is None else F(1)
        new = D(sign) * D(int(abs(exactly) / step)) * (LOT if in_lieu is None else D(1))
        paid = D(0) if in_lieu is None else (D(sign) * D(float(abs(exactly - F(new)))) * in_lieu).quantize(D("0.01"))
        told = []
        for number, (change, cash) in enumerate(((-old, paid), (new, D(0))) if whole else ((new - old, paid),)):
            told.append(NewEntry(f"a-{self.count}-{number}", "split", symbol, change, cash, self.now_ns))
        after = {s: p for s, p in {**facts.positions, symbol: Position(new, D(1))}.items() if p.quantity}
        self.reconcile(facts.cash_usd + paid, after, tuple(told))
        self.model.happened.append((f"a-{self.count}", symbol, F(new - old), None))
        self.model.cash.append(("split", F(paid), ""))

    def close(self, prices: dict[str, D]) -> SessionClose:
        close = self.store.record_session_close(self.today, prices, now_ns=self.now_ns)
        assert close is not None
        return close

    def agree(self, close: SessionClose, prices: dict[str, D]) -> None:
        """The close is the model's, figure by figure."""
        held, realised = self.model.positions()
        worth = sum((q * F(prices[s]) if s in prices else cost for s, (q, cost) in held.items()), F(0))
        cash = self.model.cash_now()
        fees = sum((fee for key, fee in self.model.fees.items() if key not in self.model.gone), F(0))
        expected = {
            "cash_usd": cash, "positions_usd": worth, "equity_usd": cash + worth, "realised_usd": realised,
            "cost_usd": sum((cost for _, cost in held.values()), F(0)), "opening_usd": F(100_280),
            "fees_usd": fees - self.model.total("fee"), "dividends_usd": self.model.total("div"),
            "interest_usd": self.model.total("int"), "transfers_usd": self.model.total("csd"),
            "other_usd": self.model.total("split") + self.model.total("rounding"),
            "unsettled_usd": sum((amount for on, amount in self.sold.values() if on > self.today), F(0)),
        }  # fmt: skip
        for name, value in expected.items():
            assert abs(F(getattr(close, name)) - value) < TINY, name
        assert close.equity_usd == close.cash_usd + close.positions_usd
        assert {s: F(q) for s, q, _, _ in close.positions} == {s: q for s, (q, _) in held.items()}
        for symbol, quantity, average, _ in close.positions:
            assert abs(F(average) * F(quantity) - held[symbol][1]) < TINY


SHARES = st.integers(1, 10**5).map(lambda n: D(n) / 1000)
PRICES = st.integers(1, 10**6).map(lambda n: D(n) / 100)
FEES = st.integers(0, 300).map(lambda n: D(n) / 100)
PARTS = st.sampled_from([D(0), D("0.25")])
RATIOS = st.sampled_from([F(2), F(3), F(3, 2), F(1, 2), F(1, 3), F(1, 10), F(1, 1000), F(0)])
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("trade"), st.sampled_from("AB"), st.sampled_from(["buy", "sell"]), SHARES, PRICES, FEES, PARTS
        ),
        st.tuples(st.just("bust"), st.integers(0, 99)),
        st.tuples(st.just("correct"), st.integers(0, 99), PRICES, FEES, st.sampled_from([D(1), D("0.5")])),
        st.tuples(st.just("entry"), st.sampled_from(["div", "csd", "int"]), FEES.map(lambda fee: fee + 1)),
        st.tuples(st.just("entry"), st.just("fee"), FEES.map(lambda fee: -fee - 1)),
        st.tuples(st.just("entry"), st.just("div"), FEES.map(lambda fee: -fee - 1)),  # owed by who is short
        st.tuples(st.just("rounding"), st.sampled_from([-1, 1])),
        st.tuples(st.just("split"), st.sampled_from("AB"), RATIOS, st.none() | PRICES, st.booleans()),
        st.tuples(st.just("close"), st.dictionaries(st.sampled_from("AB"), PRICES)),
        st.tuples(st.just("load")),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_every_figure_is_what_fractions_say_whatever_happens_in_whatever_order(steps: list[tuple[object, ...]]) -> None:
    """Trades in parts and through zero, splits and reverse splits with remainders, shares taken whole, dividends paid and owed,
    deposits, fees, rounding, busts and corrections of any earlier fill, restarts."""
    follow(Bench(), steps)


@settings(max_examples=8, deadline=None)
@given(STEPS)
def test_every_figure_is_the_same_on_a_server(steps: list[tuple[object, ...]]) -> None:
    follow(Bench(new_schema()), steps)


def follow(bench: Bench, steps: list[tuple[object, ...]]) -> None:
    """Tell store and model the same, and compare at each close and at the end."""
    for name, *arguments in [*steps, ("close", {"A": D("3.5")})]:
        match name, arguments:
            case "trade", [symbol, side, quantity, price, fee, part]:
                bench.trade(str(symbol), str(side), quantity, price, fee, part)  # type: ignore[arg-type]
            case "bust", [int(n)]:
                bench.take_back(n, None)
            case "correct", [int(n), price, fee, part]:
                bench.take_back(n, (price, fee, part))  # type: ignore[arg-type]
            case "entry", [kind, amount]:
                bench.entry(str(kind), amount)  # type: ignore[arg-type]
            case "rounding", [int(cents)]:
                bench.round_off(cents)
            case "split", [symbol, ratio, in_lieu, whole]:
                bench.split(str(symbol), ratio, in_lieu, bool(whole))  # type: ignore[arg-type]
            case "load", _:
                bench.store.load()
            case "close", [dict(prices)]:
                bench.agree(bench.close(prices), prices)
                bench.day += 1
    assert check(bench.store.database) == []
    facts, spelled = bench.store.facts(now_ns=bench.now_ns), repr(bench.store.facts(now_ns=bench.now_ns))
    bench.store.load()
    assert (facts.cash_usd, spelled) == (facts.cash_usd, repr(bench.store.facts(now_ns=bench.now_ns)))
    bench.store.close()


@pytest.fixture
def bench(place: Place) -> Iterator[Bench]:
    made = Bench(place)
    yield made
    made.store.close()


def test_a_bust_is_an_entry_of_its_own_and_counts_once(bench: Bench) -> None:
    """Bought at 10 and at 20, sold half at 30: without the first purchase the sale was of the second's shares."""
    bench.trade("A", "buy", D(10), D(10), D(1))
    bench.trade("A", "buy", D(10), D(20), D(0))
    bench.trade("A", "sell", D(10), D(30), D(0))
    before = bench.store.facts(now_ns=1)
    assert before.positions["A"] == Position(D(10), D(15))

    bench.take_back(0, None)

    facts = bench.store.facts(now_ns=bench.now_ns)
    assert "A" not in facts.positions
    assert facts.cash_usd == D(100_000) - 200 + 300
    entries = execute(bench.store.database, "SELECT kind, reference, amount_usd FROM cash_entry ORDER BY seq")
    assert entries[1:] == [
        ("fill", "e-1", "-101"), ("fill", "e-2", "-200"), ("fill", "e-3", "300"), ("trade_bust", "trade_bust of e-1", "101"),
    ]  # fmt: skip
    profits = execute(
        bench.store.database, "SELECT kind, realised_usd FROM position_entry WHERE symbol = 'A' ORDER BY seq"
    )
    assert profits == [("fill", "0"), ("fill", "0"), ("fill", "150"), ("trade_bust", "-50")]
    again = bench.store.record_order_event(
        "o-1", OrderEvent.TRADE_BUST, reversed_execution_id="e-1", now_ns=bench.now_ns
    )
    assert not again.applied
    told_again = bench.store.record_order_event("o-1", OrderEvent.FILL, fill=bench.fills[0], now_ns=bench.now_ns)
    assert not told_again.applied
    (order,) = bench.store._load_orders("o.client_order_id = ?", "o-1")
    assert (order.order.filled_quantity, order.order.status) == (D(0), OrderStatus.FILLED)


def test_a_correction_leaves_one_fill_at_the_new_price(bench: Bench) -> None:
    bench.trade("A", "sell", D(10), D(10), D(0))
    bench.take_back(0, (D(11), D("0.5"), D(1)))

    facts = bench.store.facts(now_ns=bench.now_ns)
    assert facts.positions["A"] == Position(D(-10), D(11))
    assert facts.cash_usd == D("100109.5")
    assert facts.unsettled == (
        ("2012-01-03", D(100)), ("2012-01-03", D(-100)), ("2012-01-03", D("109.5")),
    )  # fmt: skip
    assert check(bench.store.database) == []


def test_a_bust_of_anothers_order_is_refused(bench: Bench) -> None:
    bench.trade("A", "buy", D(10), D(10), D(0))
    bench.trade("A", "buy", D(10), D(10), D(0))

    with pytest.raises(LedgerError, match="execution e-1 is of o-1, not of o-2"):
        bench.store.record_order_event("o-2", OrderEvent.TRADE_BUST, reversed_execution_id="e-1", now_ns=1)


def test_a_session_closes_once(bench: Bench) -> None:
    bench.trade("A", "buy", D(10), D(10), D(0))
    first = bench.close({"A": D(12), "B": D(8)})
    assert (first.equity_usd, first.unrealised_usd) == (D(100_340), D(60))  # 20 on A, 40 on B
    bench.trade("A", "buy", D(10), D(10), D(0))

    assert bench.close({"A": D(99)}) == first
    bench.day = 1
    assert bench.close({}).positions_usd == D(480)  # without a price a position counts at its cost


def test_proceeds_settle_on_the_session_they_were_said_to(bench: Bench) -> None:
    bench.trade("B", "sell", D(40), D(10), D(0))

    assert bench.store.facts(now_ns=bench.now_ns).unsettled == (("2012-01-03", D(400)),)
    bench.store.load()
    assert bench.store.facts(now_ns=bench.now_ns).unsettled == (("2012-01-03", D(400)),)
    assert bench.close({}).unsettled_usd == D(400)
    bench.day = 1
    assert bench.store.facts(now_ns=bench.now_ns).unsettled == ()
    assert bench.close({}).unsettled_usd == D(0)
