"""Proofs that a strategy looks only back, and forgets what it says it forgets.

Each proof runs the strategy on the same past in two ways that cannot differ if it is honest, and gives the first bar where
they do. They see what a strategy does with the bars it is handed; what it reads elsewhere (files, network, clock) they see
only if it changes between two runs.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from algo_royale.costs import CostRules
from algo_royale.errors import BadStrategy, InsufficientHistory
from algo_royale.features import Program
from algo_royale.market import ENTER, EXIT, Bars, SignalArray, Timeframe
from algo_royale.research.backtest import cost_array, run_arrays
from algo_royale.sessions import calendar
from algo_royale.strategies import loading
from algo_royale.strategies.own import Own
from algo_royale.strategies.space import Params, ParamSpec
from algo_royale.strategies.strategy import State, Strategy, build, resolve, space

Make = Callable[[], Strategy]  # a strategy that shares no memory with any made before
Trace = dict[str, npt.NDArray[np.int8]]  # what it said at each bar: its signal, whether it is in, each condition
_FIRST = date(1995, 1, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The first bar at which two runs differ that must not: `what` said `expected` in the one and `found` in the other."""

    check: str
    bar: int
    at: str
    what: str
    expected: str
    found: str
    meaning: str
    advice: str


_MEANING = {
    "future": (
        "only bars after the one that was judged were changed, and its answer changed: it knows the future, so its backtest "
        "earns what nobody can earn",
        "look for what reads a whole series: its mean, deviation, maximum or order; shift(-n), centred windows, bfill, [-1] "
        "of all bars, resampling to periods that have not ended; the form without vectorised cannot do it",
    ),
    "chunks": (
        "the same bars, passed in other portions, gave another answer: the trader, who passes one bar at a time, would not do "
        "what the backtest did",
        "give it the `lookback` that it really reads, and carry anything older in `state`",
    ),
    "memory": (
        "asked again for the same bars, it gave another answer: it remembers something outside its arguments",
        "keep nothing in module variables, caches or files; what must be carried from bar to bar belongs into `state`",
    ),
    "process": (
        "another process gave another answer for the same bars: it depends on chance, on the order of a set, or on what ran "
        "before",
        "use no unseeded random numbers, no hash order, no clock and no module variables",
    ),
    "stand-in": (
        "the vectorised form and the function that it stands in for disagree",
        "correct the one that is wrong; the one that sees a window at a time cannot look ahead",
    ),
    "warm-up": (
        "begun later, but with all the warm-up that it asks for, it gave another answer: research and the trader begin at "
        "different bars and would disagree",
        "declare a longer `lookback`; an average that decays over n bars is settled after about 12 n of them, and a total or "
        "mean since the beginning never is",
    ),
    "fills": (
        "a fill is not at the open of the bar after its signal: what was known only at a close was traded before it",
        "fill at the next open; a signal needs the whole bar, and its close is over when the signal is there",
    ),
}  # fmt: skip


def finding(check: str, bars: Bars, bar: int, what: str, expected: object, found: object) -> Finding:
    at = str(np.datetime64(int(bars.start_ns[bar]), "ns").astype("datetime64[s]")) + "Z"
    meaning, advice = _MEANING[check]
    return Finding(
        check=check, bar=bar, at=at, what=what, expected=str(expected), found=str(found), meaning=meaning, advice=advice
    )


# --- series to prove on --------------------------------------------------------------------------------------------------------


def rough_bars(seed: int, n: int, timeframe: Timeframe, columns: Collection[str] = ()) -> Bars:
    """A random walk on the exchange's calendar, with what markets do to code: unchanged bars, jumps, bars without volume,
    a vwap that is known now and then. As many as n bars, fewer if the calendar ends. Extra `columns` are true now and then."""
    rng = np.random.default_rng(seed)
    starts, ends = _grid(n, timeframe)
    n = len(starts)
    moves = rng.normal(0.0, 0.02, n) * rng.choice([0.0, 0.5, 1.0, 4.0], n, p=[0.1, 0.4, 0.45, 0.05])
    close = np.round(50.0 * np.exp(np.cumsum(moves) - 0.5 * np.linspace(0.0, float(moves.sum()), n)), 2)
    close = np.maximum(close, 0.5)
    open_ = np.where(rng.random(n) < 0.2, close, np.round(close * (1 + rng.normal(0, 0.005, n)), 2))
    spread = rng.random((2, n)) * 0.01 * (rng.random(n) < 0.9)
    high, low = np.maximum(open_, close) * (1 + spread[0]), np.minimum(open_, close) * (1 - spread[1])
    volume = np.where(rng.random(n) < 0.05, 0.0, np.floor(1e6 * rng.random(n) ** 3))
    vwap = np.where(rng.random(n) < 0.5, np.nan, (high + low) / 2)
    return Bars(
        symbol=f"WALK{seed}", timeframe=timeframe, start_ns=starts, end_ns=ends, open=open_, high=high, low=low,
        close=close, volume=volume, vwap=vwap, trade_count=np.full(n, -1, np.int64),
        extra={name: rng.random(n) < 0.1 for name in sorted(columns)},
    ).check()  # fmt: skip


def _grid(n: int, timeframe: Timeframe) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Starts and ends of n bars of regular sessions."""
    step = timeframe.minutes * 60 * 10**9
    per_session = 1 if timeframe is Timeframe.DAY_1 else 390 // timeframe.minutes
    years = n // (per_session * 245) + 2
    starts: list[int] = []
    ends: list[int] = []
    for session in calendar().sessions(_FIRST, date(min(_FIRST.year + years, 2026), 1, 1)):
        if timeframe is Timeframe.DAY_1:
            starts.append(session.label_ns)
            ends.append(session.close_ns)
        else:
            first = session.label_ns + (session.open_ns - session.label_ns) // step * step
            own = range(first, session.close_ns, step)
            starts.extend(own)
            ends.extend(min(start + step, session.close_ns) for start in own)
        if len(starts) >= n:
            break
    return np.array(starts[:n], np.int64), np.array(ends[:n], np.int64)


def scrambled(bars: Bars, cut: int, kind: str, rng: np.random.Generator) -> Bars:
    """The bars with everything from `cut` on replaced by something else: `higher`, `lower`, `wild` or `still` prices."""
    n, last = len(bars) - cut, float(bars.close[cut - 1]) if cut else 50.0
    if kind == "still":
        close, volume = np.full(n, last), np.zeros(n)
    elif kind == "wild":
        close, volume = last * np.exp(rng.normal(0.0, 1.5, n)), np.floor(1e7 * rng.random(n))
    else:
        factor = 20.0 if kind == "higher" else 0.05
        close = bars.close[cut:][::-1] * factor * np.exp(rng.normal(0.0, 0.3, n))
        volume = np.floor((1e9 if kind == "higher" else 1.0) * rng.random(n))
    open_ = close.copy() if kind == "still" else close * np.exp(rng.normal(0.0, 0.1, n))
    high, low = np.maximum(open_, close) * 1.02, np.minimum(open_, close) * 0.98
    late = {"open": open_, "high": high, "low": low, "close": close, "volume": volume, "vwap": (high + low) / 2}
    columns: dict[str, Any] = {n: np.concatenate((getattr(bars, n)[:cut], values)) for n, values in late.items()}
    extra = {name: np.concatenate((values[:cut], ~values[cut:])) for name, values in bars.extra.items()}
    return replace(bars, extra=extra, **columns)


KINDS = ("higher", "lower", "wild", "still")


def points(space: Sequence[ParamSpec], count: int, seed: int) -> Iterator[Params]:
    """The default point of a search space, then `count` - 1 drawn ones."""
    rng = np.random.default_rng(seed)
    yield {d.name: d.default for d in space}
    for _ in range(count - 1):
        drawn: Params = {}
        for d in space:
            if d.kind == "categorical":
                drawn[d.name] = d.choices[int(rng.integers(len(d.choices)))]
            elif d.kind == "int":
                drawn[d.name] = int(rng.integers(int(d.low or 0), int(d.high or 0) + 1))
            else:
                low, high = float(d.low or 0), float(d.high or 0)
                x = np.exp(rng.uniform(np.log(low), np.log(high))) if d.log else rng.uniform(low, high)
                drawn[d.name] = float(np.clip(x, low, high))
        yield drawn


# --- runs and their comparison -------------------------------------------------------------------------------------------------


def trace(strategy: Strategy, bars: Bars, cuts: Sequence[int] = ()) -> Trace:
    """What the strategy says at each bar, the bars passed in portions that begin at `cuts`; its state goes through bytes."""
    parts: dict[str, list[npt.NDArray[np.int8]]] = {}
    state = strategy.init()
    ends = [*cuts, len(bars)]
    for low, high in zip([0, *ends[:-1]], ends, strict=True):
        run, verdicts, after = strategy.judged(bars.slice(low, high), state)
        state = State.from_bytes(after.to_bytes())
        for name, values in {"signal": run.signal, "held": run.state_in, **verdicts}.items():
            parts.setdefault(name, []).append(values.astype(np.int8))
    return {name: np.concatenate(found) for name, found in parts.items()}


def _first_difference(expected: Trace, found: Trace, low: int, high: int) -> tuple[int, str, str, str] | None:
    """(bar, what, expected, found) of the first bar in [low, high); a condition rather than the signal it leads to."""
    out: tuple[int, str, str, str] | None = None
    for name in sorted(expected, key=lambda name: (name in ("signal", "held"), name == "held", name)):
        wrong = np.flatnonzero(expected[name][low:high] != found[name][low:high])
        if len(wrong) and (out is None or low + int(wrong[0]) < out[0]):
            t = low + int(wrong[0])
            out = t, name, _said(name, expected[name][t]), _said(name, found[name][t])
    return out


def _said(name: str, value: int) -> str:
    if name == "signal":
        return {ENTER: "ENTER", EXIT: "EXIT"}.get(int(value), "HOLD")
    if name == "held":
        return "in" if value else "out"
    return str(bool(value))


def _compare(check: str, bars: Bars, expected: Trace, found: Trace, low: int, high: int) -> Finding | None:
    different = _first_difference(expected, found, low, high)
    return None if different is None else finding(check, bars, *different)


def interesting_cuts(base: Trace, bars: Bars, count: int, rng: np.random.Generator) -> list[int]:
    """Places to cut: half of them right after bars where something was said, some after bars without volume, the others
    anywhere."""
    n, odd = len(bars), np.flatnonzero(bars.volume == 0.0) + 1
    said = np.flatnonzero(np.any([values != 0 for values in base.values()], axis=0)) + 1
    turns = np.flatnonzero(np.any([np.diff(values, prepend=0) != 0 for values in base.values()], axis=0)) + 1
    places = np.concatenate((said, turns, turns))
    chosen = rng.choice(places, count // 2) if len(places) else np.empty(0, np.int64)
    quiet = rng.choice(odd, count // 6) if len(odd) else np.empty(0, np.int64)
    anywhere = rng.integers(1, n, count - len(chosen) - len(quiet))
    return sorted({int(c) for c in (*chosen, *quiet, *anywhere) if 0 < c < n})


# --- the proofs --------------------------------------------------------------------------------------------------------------


def future(make: Make, bars: Bars, *, seed: int, cuts: int = 20) -> Finding | None:
    """Nothing said before a cut changes when everything after it does, or is not there."""
    rng, strategy = np.random.default_rng(seed), make()
    base = trace(make(), bars)
    first: Finding | None = None
    for number, cut in enumerate(interesting_cuts(base, bars, cuts, rng)):
        kinds = KINDS[:2] if number % 2 else KINDS[2:]
        for other in [
            *(scrambled(bars, cut, kind, rng) for kind in kinds),
            *([bars.slice(0, cut)] if number < 4 else []),
        ]:
            found = _compare("future", bars, base, trace(strategy, other), 0, cut)
            if found is not None and (first is None or found.bar < first.bar):
                first = found
        if first is not None:
            return first
    return None


def chunks(make: Make, bars: Bars, *, seed: int, partitions: int = 3) -> Finding | None:
    """However the bars are cut into portions, also empty ones and single bars, the same is said."""
    rng, n, strategy = np.random.default_rng(seed), len(bars), make()
    base = trace(make(), bars)
    single = min(n // 3, 250)
    ways = [np.sort(rng.integers(0, n + 1, int(rng.integers(2, 60)))).tolist() for _ in range(partitions)]
    ways += [list(range(n - single, n)), list(range(1, single))]
    for cuts in ways:
        found = _compare("chunks", bars, base, trace(strategy, bars, cuts), 0, n)
        if found is not None:
            return found
    return None


def _dearer(bars: Bars) -> Bars:
    """Bars of the same time at three times the prices, the other way round."""
    columns: dict[str, Any] = {
        name: getattr(bars, name)[::-1] * 3.0 for name in ("open", "high", "low", "close", "vwap")
    }
    return replace(bars, **columns)


def memory(make: Make, bars: Bars, other: Bars) -> Finding | None:
    """Asked twice, or after other bars, it says the same."""
    base = trace(make(), bars)
    same = make()
    runs = [trace(same, bars), trace(same, bars)]
    trace(same, other)
    runs.append(trace(same, bars))
    for found in runs:
        different = _compare("memory", bars, base, found, 0, len(bars))
        if different is not None:
            return different
    return None


def stand_ins(functions: Sequence[tuple[Own, Params]], bars: Bars) -> Finding | None:
    """Vectorised forms give what the functions give that they stand in for (numbers within 1e-9 relative)."""
    for own, params in functions:
        if not own.fast:
            continue
        slow, fast = own.feature(params, slow=True), own.feature(params)
        program = Program([slow, fast])
        with np.errstate(all="ignore"):
            values = program.run(bars, program.initial.copy())
        a, b = values[slow.key], values[fast.key]
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        if own.kind == "feature":
            same |= np.isclose(a, b, rtol=1e-9, atol=1e-12)
        if not same.all():
            t = int(np.argmin(same))
            return finding("stand-in", bars, t, own.name, _value(own, a[t]), _value(own, b[t]))
    return None


def _value(own: Own, value: float) -> str:
    if np.isnan(value):
        return "unknown"
    return str(bool(value)) if own.kind == "condition" else f"{value:.10g}"


def warm_up(make: Make, bars: Bars, *, seed: int, own: Mapping[str, int], origins: int = 10) -> Finding | None:
    """Begun at a later bar, with the declared warm-up before it, the strategy holds what it would have held, and each own
    condition (`own`: its warm-up, by the name that it has in traces) says the same.

    Conditions of the catalogue may be unknown where an earlier start knows ("never since the beginning"), so for them what
    counts is what is held. Raises InsufficientHistory if the bars are too few to prove anything.
    """
    rng, n = np.random.default_rng(seed), len(bars)
    settle = make().settle
    room = n - settle - 1
    if room < 100:
        raise InsufficientHistory(
            f"{n} bars prove nothing about a warm-up of {settle}; at least {settle + 101} are needed"
        )
    strategy = make()
    whole = trace(make(), bars)
    for origin in sorted({1, *(int(o) for o in rng.integers(1, room - 50, origins))}):
        start = origin + settle
        late = bars.slice(origin, n)
        short = trace(strategy, late)
        for name, asked in own.items():
            found = _compare("warm-up", late, {name: whole[name][origin:]}, short, asked, n - origin)
            if found is not None:
                return found
        expected = {"held": strategy.run(bars, start=start).state_in.astype(np.int8)[origin:]}
        held = {"held": strategy.run(late, start=settle).state_in.astype(np.int8)}
        found = _compare("warm-up", late, expected, held, settle, n - origin)
        if found is not None:
            return found
    return None


# --- fills -------------------------------------------------------------------------------------------------------------------


class Fill(NamedTuple):
    """An execution that a backtest says it made at a bar, at a price before costs."""

    bar: int
    price: float


Backtest = Callable[[Bars, SignalArray], Sequence[Fill]]


def fills(backtest: Backtest, bars: Bars, signal: SignalArray, *, seed: int, cuts: int = 8) -> Finding | None:
    """Every fill is after a signal, follows the open of its bar, and does not know how that bar ends."""
    done = list(backtest(bars, signal))
    rng = np.random.default_rng(seed)
    for fill in done:
        if fill.bar < 1 or signal[fill.bar - 1] == 0:
            return finding(
                "fills", bars, max(fill.bar, 0), "fill", "a signal on the bar before", f"none (price {fill.price:g})"
            )
    chosen = rng.choice(len(done), min(cuts, len(done)), replace=False) if done else ()
    for i in sorted(int(i) for i in chosen):
        bar, price = done[i]
        moved = _moved(bars, bar)
        again = next((f for f in backtest(moved, signal) if f.bar == bar), None)
        ratio = float(moved.open[bar] / bars.open[bar])
        if again is None or not np.isclose(again.price, price * ratio, rtol=1e-9):
            said = "no fill" if again is None else f"{again.price:.6g}"
            return finding("fills", bars, bar, "price of the fill when its open moves", f"{price * ratio:.6g}", said)
    return None


def _moved(bars: Bars, bar: int) -> Bars:
    """The bars with another open at `bar`, and another world from its high on."""
    open_, rest = bars.open.copy(), {name: getattr(bars, name).copy() for name in ("high", "low", "close")}
    open_[bar] *= 1.07
    for values in rest.values():
        values[bar:] *= 0.5
    rest["high"][bar:] = np.maximum(rest["high"][bar:], np.maximum(open_[bar:], rest["close"][bar:]))
    rest["low"][bar:] = np.minimum(rest["low"][bar:], np.minimum(open_[bar:], rest["close"][bar:]))
    return replace(bars, open=open_, **rest)


def digest(found: Trace) -> dict[str, bytes]:
    """A trace as bytes, to be compared with that of another process."""
    return {name: values.tobytes() for name, values in found.items()}


def undigest(found: Mapping[str, bytes]) -> Trace:
    return {name: np.frombuffer(values, np.int8) for name, values in found.items()}


def process(make: Make, bars: Bars, elsewhere: Mapping[str, bytes]) -> Finding | None:
    """What another process said is what this one says."""
    return _compare("process", bars, trace(make(), bars), undigest(elsewhere), 0, len(bars))


# --- a strategy, whole -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One kind of proof of one strategy: how many (point of its space, series) it held on, and what broke it if it did not."""

    check: str
    held: int
    finding: Finding | None = None
    params: Mapping[str, Any] | None = None
    symbol: str | None = None


def factory(name: str, point: Params, timeframe: Timeframe) -> Make:
    """Makes the strategy anew; of an own one the file is run again, so that nothing is remembered from one to the next."""
    own = name in loading.versions()

    def make() -> Strategy:
        if own:
            loading.renew(name)
        return build(name, resolve(name, point, timeframe), timeframe)

    return make


def _own_parts(name: str, strategy: Strategy) -> tuple[dict[str, int], list[tuple[Own, Params]]]:
    """The warm-up of each own condition, by the name that it has in a trace, and the own functions with their arguments."""
    functions = {own.name: own for own in loading.functions(name)}
    named = [(f"{slot} {c.name}", c.name, c) for slot, c in strategy.conditions]
    if strategy.logic is not None:
        logic = strategy.logic
        named += [(f"logic {c.name}", logic.name, c) for c in (logic.entry, logic.exit) if c is not None]
    mine = [(shown, part, c.params) for shown, part, c in named if part in functions]
    settled = {shown: max(f.settle for f in c.inputs.values()) for shown, part, c in named if part in functions}
    pairs: list[tuple[Own, Params]] = []
    for _, part, params in mine:
        used = [functions[part], *(u for u in functions[part].uses if isinstance(u, Own))]
        pairs += [(own, params) for own in used if (own, params) not in pairs]
    return settled, pairs


def look_ahead(
    name: str, series: Sequence[Bars], *, seed: int, point_count: int = 3, cuts: int = 20,
    elsewhere: Mapping[str, bytes] | None = None,
) -> list[Proof]:  # fmt: skip
    """All proofs that a strategy looks only back, on each series at several points of its space. `elsewhere` is what
    another process said (`digest`) at the default point on the first series."""
    timeframe = series[0].timeframe
    held = dict.fromkeys(("memory", "future", "chunks", "stand-in", "process", "fills"), 0)
    broken: dict[str, Proof] = {}

    def note(check: str, prove: Callable[[], Finding | None], point: Params, bars: Bars) -> None:
        try:
            found = prove()
        except BadStrategy as error:
            found = finding(check, bars, 0, "the strategy", "an answer", str(error))
        if found is None:
            held[check] += 1
        else:
            broken[check] = Proof(check=check, held=held[check], finding=found, params=point, symbol=bars.symbol)

    for number, point in enumerate(points(space(name, timeframe), point_count, seed)):
        make = factory(name, point, timeframe)
        strategy = make()
        _, pairs = _own_parts(name, strategy)
        for bars in series:
            strategy.run(bars)  # what it raises on plain bars is its own fault and proves nothing
            proofs: dict[str, Callable[[], Finding | None]] = {
                "memory": lambda m=make, b=bars: memory(m, b, _dearer(b)),  # type: ignore[misc]
                "future": lambda m=make, b=bars: future(m, b, seed=seed, cuts=cuts),  # type: ignore[misc]
                "chunks": lambda m=make, b=bars: chunks(m, b, seed=seed),  # type: ignore[misc]
                "fills": lambda m=make, b=bars: fills(research_fills, b, m().run(b).signal, seed=seed),  # type: ignore[misc]
            }
            if any(own.fast for own, _ in pairs):
                proofs["stand-in"] = lambda p=pairs, b=bars: stand_ins(p, b)  # type: ignore[misc]
            if elsewhere is not None and number == 0 and bars is series[0]:
                proofs["process"] = lambda m=make, b=bars: process(m, b, elsewhere)  # type: ignore[misc]
            for check, prove in proofs.items():
                # With a memory of its own it answers every proof by chance: the others would only repeat that.
                if check not in broken and (check in ("memory", "process") or "memory" not in broken):
                    note(check, prove, point, bars)
    return [broken.get(check) or Proof(check=check, held=n) for check, n in held.items() if n or check in broken]


def refuse_leaks(names: Iterable[str], timeframe: Timeframe) -> None:
    """Raise BadStrategy for the first of these own strategies that a quick look finds to look ahead, or that fails."""
    for name in names:
        strategy = factory(name, next(points(space(name, timeframe), 1, 1)), timeframe)()
        bars = rough_bars(1, strategy.settle + 250, timeframe, strategy.columns)
        for proof in look_ahead(name, [bars], seed=1, point_count=1, cuts=6):
            if (found := proof.finding) is not None:
                raise BadStrategy(
                    f"{loading.place(name)}: {name} may not be backtested: {found.meaning} (at bar {found.bar} {found.what} should "
                    f"be {found.expected} and is {found.found}); see `algo-royale check lookahead {name}`, or give --unproven"
                )


def forgetting(
    name: str, timeframe: Timeframe, *, seed: int, point_count: int = 3, origins: int = 10, room: int = 900
) -> Proof:
    """The proof that a strategy forgets what came before its warm-up, at several points of its space, on random walks long
    `room` bars longer than it."""
    held = 0
    for number, point in enumerate(points(space(name, timeframe), point_count, seed)):
        make = factory(name, point, timeframe)
        strategy = make()
        mine, _ = _own_parts(name, strategy)
        bars = rough_bars(seed + number, strategy.settle + room, timeframe, strategy.columns)
        found = warm_up(make, bars, seed=seed, own=mine, origins=origins)
        if found is not None:
            return Proof(check="warm-up", held=held, finding=found, params=point, symbol=bars.symbol)
        held += 1
    return Proof(check="warm-up", held=held)


def research_fills(bars: Bars, signal: SignalArray) -> list[Fill]:
    """The fills of the research's own backtest, without costs; one that is still in at the end has not sold."""
    done = run_arrays(bars.open, bars.close, signal, cost_array(CostRules(slippage_bps=Decimal(0))), 100_000.0).trades
    out = [Fill(int(bar), float(price)) for bar, price in zip(done.entry, done.entry_price, strict=True)]
    sold = len(done) - done.open_at_end
    out += [Fill(int(bar), float(price)) for bar, price in zip(done.exit[:sold], done.exit_price[:sold], strict=True)]
    return sorted(out)
