"""A trader runs for years: what its actors hold is what the present needs, and no session adds to it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import date
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intraday
from actors.kernel import Actor, Crash, Faults, SteppedSystem
from actors.kernel.incarnation import TIMERS_KEPT
from algo_royale.app.cli import Settings
from algo_royale.app.stepped import SteppedTrader, market_replay
from algo_royale.exchange.replay import MarketReplay
from algo_royale.market import Bars, Timeframe
from algo_royale.research.handover import TradingPlan
from algo_royale.sessions import Session, calendar
from traders import nervous_plan

START = date(2012, 1, 3)
SYMBOLS = ("AAA", "BBB", "CCC")
DAY_NS, MINUTE_NS = 86_400_000_000_000, 60_000_000_000
OURS = ("actors", "algo_royale", "db", "schedule")
KERNEL = "actors.kernel"  # of which only the actors' timers are looked at, and what it keeps of its own
UNDER_WAY = 6  # orders and timers of the moment
ELSEWHERE = ("Calendar", "DirectBroker", "DirectStreams", "DirectHandle", "Ref")


# --- what is held ------------------------------------------------------------------------------------------------------


def parts_of(thing: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, by names that do not depend on which order, bar or session it is of."""
    module = type(thing).__module__
    if isinstance(thing, Mapping):
        yield from (("[]", part) for part in [*thing.keys(), *thing.values()])
    elif isinstance(thing, Sequence | Set) and not hasattr(thing, "__dict__"):
        yield from (("[]", part) for part in list(thing))
    elif module.split(".")[0] in OURS and not module.startswith(KERNEL) and type(thing).__name__ not in ELSEWHERE:
        names = [name for cls in type(thing).__mro__ for name in cls.__dict__.get("__slots__", ())]
        names += [*getattr(thing, "__struct_fields__", ()), *getattr(thing, "__dict__", ())]
        yield from (
            (f".{n}", getattr(thing, n, None)) for n in dict.fromkeys(names) if n not in ("_incarnation", "system")
        )


def sizes(roots: Mapping[str, Any]) -> Counter[str]:
    """How many entries the containers of every place that can be reached have, those of equal places together."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    waiting = list(roots.items())
    while waiting:
        place, thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, str | int | float | type | None):
            continue
        seen.add(id(thing))
        if isinstance(thing, np.ndarray | bytes):
            found[place] += len(thing)
            continue
        if isinstance(thing, Mapping | Sequence | Set):
            found[place] += len(thing)
        waiting += [(place + name, part) for name, part in parts_of(thing)]
    return found


def held(system: SteppedSystem) -> Counter[str]:
    """What the actors of a system hold, and what the kernel holds for them."""
    cells = system.cells
    # those that have fired are forgotten only once they are more than the others
    timers = {
        path: list(c.incarnation.timers)[2 * TIMERS_KEPT :] for path, c in cells.items() if c.incarnation is not None
    }
    actors = {path: getattr(cell.incarnation, "actor", None) for path, cell in cells.items()}
    kernel = {"cells": cells, "refs": system._refs, "all timers": system.timers._heap, "abandoned": system.abandoned}
    actors = {path: actor for path, actor in actors.items() if isinstance(actor, Actor)}
    return sizes({f"{path} timers": keys for path, keys in timers.items()} | kernel | actors)


# --- a market that repeats itself --------------------------------------------------------------------------------------


class Trouble(Faults):
    """In every session both lines break, and now and then an actor fails."""

    def __init__(self) -> None:
        self.account: SteppedTrader | None = None
        self.day = 0

    def before(self, index: int, path: str, message: Any) -> BaseException | None:
        assert self.account is not None
        day = self.account.exchange.now_ns // DAY_NS
        if day == self.day or type(message).__name__ != "TradeUpdated":
            return None
        self.day = day
        self.account.streams.drop("trading")
        self.account.streams.drop("data")
        return Crash("injected") if day % 7 == 0 else None


def zigzag(timeframe: Timeframe, sessions: Sequence[Session]) -> dict[str, Bars]:
    """Bars of each symbol that rise twice and fall twice: by the day, or by two hours of minutes, the same in every session."""
    if timeframe is Timeframe.DAY_1:
        start, end = np.array([(s.label_ns, s.close_ns) for s in sessions]).T
        step = np.arange(len(sessions))
    else:
        start = np.concatenate([np.arange(s.open_ns, s.close_ns, MINUTE_NS) for s in sessions])
        end, step = (
            start + MINUTE_NS,
            np.concatenate([np.arange((s.close_ns - s.open_ns) // MINUTE_NS) for s in sessions]) // 60,
        )
    n, made = len(start), {}
    for number, symbol in enumerate(SYMBOLS):
        close = 50.0 + np.abs((step + number) % 4 - 2)
        made[symbol] = Bars(
            symbol=symbol, timeframe=timeframe, start_ns=start, end_ns=end, open=close, high=close, low=close, close=close,
            volume=np.full(n, 1e5), vwap=np.full(n, np.nan), trade_count=np.full(n, -1, np.int64),
        )  # fmt: skip
    return made


def account_on(the_plan: TradingPlan, last: date) -> SteppedTrader:
    daily = Timeframe(the_plan.timeframe) is Timeframe.DAY_1
    sessions = calendar().sessions(calendar().offset(START, -30).date, last)
    bars = zigzag(Timeframe.DAY_1 if daily else Timeframe.MIN_1, sessions)
    if daily:
        replay = MarketReplay(bars, calendar(), {symbol: [] for symbol in SYMBOLS})
    else:
        replay = market_replay(the_plan, intraday.catalog_of(bars), last)
    limits = {"risk": {"daily_loss_fraction": "off", "drawdown_fraction": "off"}}
    return SteppedTrader(the_plan, Settings().with_flags(limits), replay, start=START)


def most_held(account: SteppedTrader, faults: Faults, every: int) -> list[Counter[str]]:
    """The most that is held in each session of a run, looked at `every` so many steps of its time."""
    days: dict[int, Counter[str]] = {}
    steps = 0

    def look() -> bool:
        nonlocal steps
        steps += 1
        if steps % every == 0 and account.system is not None:
            day = account.exchange.now_ns // DAY_NS
            days[day] = days.get(day, Counter()) | held(account.system)
        return False

    assert account.run(seed=1, faults=faults, should_stop=look) == 0
    return [days[day] for day in sorted(days)]


@pytest.mark.prove
@pytest.mark.parametrize("weather", [Faults, Trouble])
@pytest.mark.parametrize(("timeframe", "sessions", "every"), [("1Day", 90, 3), ("1Hour", 36, 7)])
def test_nothing_that_an_actor_holds_grows_with_the_sessions(
    tmp_path: Path, timeframe: str, sessions: int, every: int, weather: type[Faults], proving: bool
) -> None:
    """Of every container that an actor can reach the most entries in the last third of the sessions are not more than in the
    second one, give or take a tenth for holidays and a few that are under way when it is looked. (The first one does not count: orders of the last two weeks are kept, for a fill
    may be told late.)"""
    if timeframe != "1Day" and not proving:
        pytest.skip("the suite takes daily bars")
    last = calendar().offset(START, sessions - 1).date
    faults = weather()
    with nervous_plan(SYMBOLS, START, Timeframe(timeframe)) as the_plan:
        account = account_on(the_plan, last)
        if isinstance(faults, Trouble):
            faults.account = account
        counts = most_held(account, faults, every)

    third = len(counts) // 3
    before, after = (reduce(or_, part) for part in (counts[third : 2 * third], counts[2 * third :]))
    assert len(account.exchange.orders) > 60
    assert {
        place: (before[place], count) for place, count in after.items() if count > 1.1 * before[place] + UNDER_WAY
    } == {}
