"""Assembles and runs a trader: plan, broker, ledger, message log, clock, and the tree that uses them."""

import contextlib
import ctypes
import gc
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from actors.alpaca import AlpacaRest, AlpacaStreams
from actors.kernel import EXIT_HALTED, StartFailed, ThreadSystem
from actors.kernel.journal import LogReader, MessageLog, RunInfo
from actors.messages import TradingEnds
from actors.trading import TRADING, Trader, tree
from algo_royale.app.control import ControlServer, Desk, Gauges
from algo_royale.app.exchange_process import ExchangeProcess
from algo_royale.app.logs import fact
from algo_royale.app.notifications import NOBODY, Addressees, Notifications
from algo_royale.app.pacing import GRACE_NS, TwinMarket, run_paced, settle
from algo_royale.broker.dry import DryBroker
from algo_royale.clock import Clock, ManualClock, ScaledClock, WallClock
from algo_royale.config import Broker, BrokerKeys, Config
from algo_royale.data.catalog import open_catalog
from algo_royale.errors import BadConfiguration, BadInput, LedgerError
from algo_royale.market import Timeframe
from algo_royale.research import artifacts
from algo_royale.research.handover import TradingPlan, compile_ahead, engine_config, watch_research
from algo_royale.risk import BY_CONTRADICTION, TradingState
from algo_royale.sessions import Session, calendar, new_york_date
from db.database import PostgresUrl, place_of
from db.store import Facts, Reader, Store

DRY_RUNS = "dry-run"  # the folder of their ledgers
LOOK_S = 0.2  # how often a trader whose time passes by itself looks whether it is over
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of glibc's mallopt
LARGE = 65_536  # bytes
TWIN_KEYS = ("TWINKEY", "twin-secret")
Say = Callable[[str], None]
logger = logging.getLogger(__name__)


class TraderRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's message log keeps of its set-up, so that replay can build the same actors."""

    plan: TradingPlan
    ledger_id: str
    live_start_ns: int
    config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run writes. A dry run has a ledger of its own, so that no fact of it is ever taken for a real one."""

    home: Path
    run_id: str
    dry_run: bool = False
    database_url: str = field(default="", repr=False)

    @property
    def ledger(self) -> Path | PostgresUrl:
        return self.home / DRY_RUNS / f"{self.run_id}.db" if self.dry_run else place_of(self.database_url, self.home)

    @property
    def log(self) -> Path:
        return self.home / "runs" / self.run_id / "messages.db"

    @property
    def about(self) -> dict[str, object]:
        """What the control socket says of it."""
        return {"run_id": self.run_id, "dry_run": self.dry_run}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where the broker is, and how its time runs (`twin`: it has control routes)."""

    trading_url: str
    data_url: str
    trading_stream_url: str
    data_stream_url: str
    keys: tuple[str, str] = field(repr=False)
    twin: bool

    @classmethod
    def of_config(cls, broker: Broker, keys: BrokerKeys | None, *, twin: bool) -> "Endpoints":
        if keys is None and not twin:
            raise BadConfiguration("no broker keys: set APCA_API_KEY_ID and APCA_API_SECRET_KEY, or [broker] keys_file")
        return cls(
            trading_url=broker.trading_url, data_url=broker.data_url, trading_stream_url=broker.trading_stream_url,
            data_stream_url=broker.data_stream_url, keys=keys.pair() if keys is not None else TWIN_KEYS, twin=twin,
        )  # fmt: skip

    def rest(self, broker: Broker) -> AlpacaRest:
        """A client of its REST API; one for each thread."""
        key, secret = self.keys
        return AlpacaRest(
            key=key, secret=secret, trading_url=self.trading_url, data_url=self.data_url, feed=broker.feed,
            timeouts_s=broker.timeouts_s,
        )  # fmt: skip


def trader_parts(plan: TradingPlan, config: Config, *, ledger_id: str, live_start_ns: int, **ports: Any) -> Trader:
    """The trading tree's parts from plan and configuration; `ports` are broker, data, streams, keys, store and the like."""
    return Trader(
        symbols=plan.names,
        timeframe=Timeframe(plan.timeframe),
        combined=plan.combined,
        engine=engine_config(
            plan, ledger_id=ledger_id, rules=config.trader_rules(), limits=config.risk.limits(),
            weights=config.account.weights(bars_per_year=Timeframe(plan.timeframe).bars_per_year),
        ),
        warmup_bars=plan.warmup_bars,
        live_start_ns=live_start_ns,
        calendar=calendar(),
        watermark_s=config.trader.watermark_s,
        buys_wait=config.orders.wait_for_sells,
        close_grace_s=config.trader.close_grace_s,
        requests_per_minute=config.broker.requests_per_minute,
        patience=config.patience(Timeframe(plan.timeframe)),
        reconcile_every_s=config.trader.reconcile_every_s,
        pre_market_s=config.trader.pre_market_s,
        after_close_s=config.trader.after_close_s,
        cancels_on_halt=config.risk.on_halt == "cancel",
        second_look_s=config.trader.second_look_s,
        **ports,
    )  # fmt: skip


def last_session(until: date) -> Session:
    """The last session that is traded: on that date, or before it where it is none."""
    return calendar().offset(until + timedelta(days=1), -1)


def sessions_to_trade(
    plan: TradingPlan, config: Config, *, start: date | None, until: date | None
) -> tuple[date, date]:
    """First and last session for the twin: by default all that the data hold after the research's last judgement."""
    cal, catalog = calendar(), open_catalog(config.research.data)
    timeframe = Timeframe(plan.timeframe)
    last = max(new_york_date(int(catalog.bars(symbol, timeframe).start_ns[-1])) for symbol in plan.names)
    judged = cal.offset(date.fromisoformat(plan.last_session), 0)
    first = cal.next_session(judged.close_ns).date if start is None else cal.offset(start, 0).date
    if first > last:
        raise BadInput(
            f"no session to trade: the data end on {last} and the research has judged up to {plan.last_session}; "
            "keep a holdout in run-backtest, or give --start"
        )
    if until is not None and until < first:
        raise BadInput(f"no session to trade: the first is {first}, which is after --until {until}")
    return first, last if until is None else min(last_session(until).date, last)


def _tidy_heap() -> None:
    """Have large blocks taken from the system and given back one by one, and one heap for all threads, which take turns anyway: what
    a comparison with the broker needs for a moment would else leave holes, in which memory grows for a year. (glibc; elsewhere nothing.)"""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGE)
        mallopt(M_ARENA_MAX, 1)


@contextlib.contextmanager
def twin_process(plan: TradingPlan, config: Config, *, first: date, last: date, speed: str) -> Iterator[Endpoints]:
    """The Alpaca twin in a process of its own. A plan within the day needs a market within the day: drawn through the shortest
    bars there are, without a spread, so that orders cost what [costs] says, as in research."""
    daily = Timeframe(plan.timeframe) is Timeframe.DAY_1
    market = ["--market=sessions"] if daily else ["--market=minutes", "--spread-bps=0"]
    costs = [f"--cost={name}={value}" for name, value in config.costs.model_dump().items()]
    options = [
        f"--data={config.research.data}", f"--symbols={','.join(plan.names)}", f"--start={first}", f"--end={last}",
        f"--speed={speed}", f"--seed={config.exchange.seed}", f"--cash={config.account.cash}",
        f"--port={config.exchange.port}", f"--host={config.exchange.host}", *market, *costs,
        f"--cost=price_tick={config.account.price_tick}",
    ]  # fmt: skip
    with ExchangeProcess(options) as twin:
        yield Endpoints(
            trading_url=twin.url, data_url=twin.url, trading_stream_url=twin.trading_stream,
            data_stream_url=twin.data_stream, keys=(twin.key_id, twin.secret_key), twin=True,
        )  # fmt: skip


def live_start(now_ns: int) -> int:
    """Start label of the first session whose bar the trader will see close."""
    cal = calendar()
    session = cal.session_at(now_ns) or cal.next_session(now_ns)
    return session.label_ns


@dataclass(slots=True)
class Interrupts:
    """SIGINT, SIGTERM and SIGHUP (its terminal is closed): the first asks for an orderly stop, the second Ctrl-C ends the
    process with 130. Who started it to outlive its terminal (`nohup`) has had SIGHUP ignored, and it stays so."""

    count: int = 0
    _previous: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> "Interrupts":
        hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
        self._previous = {n: signal.signal(n, self._on) for n in (signal.SIGINT, signal.SIGTERM, *hangup)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1 and number == signal.SIGINT:
            os._exit(130)


def run_trader(
    plan: TradingPlan, config: Config, endpoints: Endpoints, *, home: Path, run_id: str, until: date | None = None,
    say: Say = lambda line: None, dry_run: bool = False, tell: Addressees = NOBODY,
) -> dict[str, Any]:  # fmt: skip
    """Trade until the feed ends or someone says stop; returns the summary of cli.md. `say` hears of every month that ends.

    A dry run does everything but send orders, on a new ledger of its own.
    """
    plan.refuse_columns()
    _tidy_heap()
    with Interrupts() as interrupts:  # from the first thing on that a stop could leave half done
        place = Place(home, run_id, dry_run, config.database.url.get_secret_value())
        return _run(plan, config, endpoints, place, until, lambda: interrupts.count > 0, say, tell)


def _monthly(clock: Clock, ledger: Path | PostgresUrl, should_stop: Callable[[], bool], say: Say) -> Callable[[], bool]:
    """`should_stop`, and beside it one line about the account whenever the clock has entered another month."""
    month = _iso(clock.now_ns())[:7]

    def watch() -> bool:
        nonlocal month
        ended, month = month, _iso(clock.now_ns())[:7]
        if month != ended:
            with Reader(ledger) as reader:
                found = reader.summary()
            if found.equity_usd is not None:
                say(f"  {ended}: equity {found.equity_usd:,.2f} USD after {found.fills} fills")
        return should_stop()

    return watch


def _run(
    plan: TradingPlan, config: Config, endpoints: Endpoints, place: Place, until: date | None,
    should_stop: Callable[[], bool], say: Say, tell: Addressees,
) -> dict[str, Any]:  # fmt: skip
    wall = WallClock()
    began = wall.monotonic_s()
    streams = AlpacaStreams({"trading": endpoints.trading_stream_url, "data": endpoints.data_stream_url})
    rest = [endpoints.rest(config.broker) for _ in range(2)]
    market = None
    if endpoints.twin:
        market = TwinMarket(
            endpoints.trading_url, lambda: streams.received, lambda: streams.asked + sum(client.asked for client in rest)
        )  # fmt: skip
    clock = _clock(market)
    store = partial(
        Store.open, place.ledger, run_id=place.run_id, now_ns=clock.now_ns(), live_start_ns=live_start(clock.now_ns())
    )
    ledger = store()
    facts = ledger.facts(now_ns=clock.now_ns())
    ledger.close()
    if facts.state is TradingState.HALTED and facts.state_set_by in BY_CONTRADICTION:
        raise BadInput(
            f"trading is halted: {facts.state_reason}. Find out why, then `algo-royale resume --reason ...` lifts the halt"
        )
    if facts.state is not TradingState.TRADING:
        say(f"  trading is {facts.state.value} ({facts.state_set_by}): {facts.state_reason}")
    info = _run_info(plan, config, place, facts, clock.now_ns())
    log = MessageLog(place.log, info)
    notices = _notifications(config, tell, place, clock)
    gauges = Gauges(notices.sink(log) if tell else log)
    system = ThreadSystem(clock, seed=config.exchange.seed, log=gauges)
    log.watch(system.tree)
    desk = Desk(system, gauges, place.about | {"environment": config.environment})
    parts = trader_parts(
        plan, config, ledger_id=facts.ledger_id, live_start_ns=facts.live_start_ns,
        broker=DryBroker(rest[0]) if place.dry_run else rest[0], data=rest[1],
        research_changes=watch_research(
            plan, place.home / "artifacts", symbols=config.trader.symbols or None, strategy_path=config.research.strategy_path
        ),
        streams=streams, keys=endpoints.keys, store=store, log_health=lambda: _health(log), pace=system.pace,
        beside=(notices.spec,) if tell else (),
    )  # fmt: skip
    compile_ahead(plan, parts.engine)
    try:
        system.start(tree(parts, system))
    except StartFailed:
        if system.exit_code != EXIT_HALTED:  # a bug, which keeps its traceback
            raise
        raise LedgerError(system.exit_reason or "the ledger cannot be opened") from None
    logger.info(fact("started", run=place.run_id, environment=config.environment, symbols=",".join(plan.names)))
    if tell:
        notices.open(system, f"{place.run_id} trades {', '.join(plan.names)}")
    gc.freeze()  # else garbage piles up to a quarter of all that libraries and start-up made, and looking for it is slow
    watch = _monthly(clock, place.ledger, lambda: should_stop() or desk.stop_asked, say)
    with ControlServer(place.home, desk.answer):
        try:
            _drive(system, market, until, watch)
            if config.trader.on_stop == "cancel":
                cancel_open(system, market, place.ledger, within_s=config.trader.stop_deadline_s)
        finally:  # also when the twin is gone: the ledger and the message log end in good order
            exit_code = system.stop(config.trader.stop_deadline_s)
            gc.unfreeze()
            for client in rest:
                client.close()
            logger.info(fact("ended", run=place.run_id, exit_code=exit_code, reason=system.exit_reason))
            notices.close(f"{place.run_id} ended with exit code {exit_code}: {system.exit_reason or 'the feed ended'}")
    return _summary(
        place, config, plan, system, exit_code, began_ns=info.started_ns, ended_ns=clock.now_ns(),
        elapsed_s=wall.monotonic_s() - began,
    )  # fmt: skip


def _drive(
    system: ThreadSystem, market: TwinMarket | None, until: date | None, should_stop: Callable[[], bool]
) -> None:
    """Let it trade: in lockstep with a twin whose time we move, else by itself."""
    until_ns = None if until is None else last_session(until).close_ns
    if isinstance(system.clock, ManualClock) and market is not None:
        run_paced(system, market, system.clock, until_ns=until_ns, should_stop=should_stop)
    else:
        _wait(system, market, until_ns, should_stop)


def _notifications(config: Config, tell: Addressees, place: Place, clock: Clock) -> Notifications:
    return Notifications(
        config.notify, tell, name=f"AlgoRoyale {config.environment}{' dry run' if place.dry_run else ''}",
        summary=partial(_standing, place.ledger), summary_s=config.trader.after_close_s + 30.0,
        pace=clock.speed if isinstance(clock, ScaledClock) else 1.0,
    )  # fmt: skip


def _run_info(plan: TradingPlan, config: Config, place: Place, facts: Facts, now_ns: int) -> RunInfo:
    """What the message log keeps of the run's set-up; secrets are blotted out of the configuration by its own types."""
    record = TraderRecord(
        plan=plan, ledger_id=facts.ledger_id, live_start_ns=facts.live_start_ns, config=config.model_dump(mode="json")
    )
    return RunInfo(
        id=place.run_id, kind="trader", started_ns=now_ns, code=artifacts.code_version(),
        config=msgspec.json.encode(record).decode(), seed=config.exchange.seed,
    )  # fmt: skip


def _standing(ledger: Path | PostgresUrl) -> str:
    """How the account stands, for whoever is told about a session's end."""
    with Reader(ledger) as reader:
        found, held = reader.summary(), reader.positions()
    equity = "unknown" if found.equity_usd is None else f"{found.equity_usd:,.2f} USD"
    cash = "unknown" if found.cash_usd is None else f"{found.cash_usd:,.2f} USD"
    positions = ", ".join(f"{row['quantity']} {row['symbol']}" for row in held) or "none"
    return (
        f"equity {equity}, cash {cash}\npositions: {positions}\n"
        f"orders: {found.orders} so far, {found.open_orders} open; fills: {found.fills}; refused: {found.refusals}\n"
        f"trading: {found.latch.state.value}{f' ({found.latch.reason})' if found.latch.reason else ''}"
    )


def cancel_open(
    system: ThreadSystem, market: TwinMarket | None, ledger: Path | PostgresUrl, *, within_s: float
) -> None:
    """Have nothing more sent and everything open canceled, and wait until the ledger knows how each order ended."""
    orders, tick = system.ref(f"{TRADING}/orders"), threading.Event()
    for _ in range(round(within_s / LOOK_S)):
        with Reader(ledger) as reader:
            left = reader.orders(status="open")
        if not left or system.exit_code is not None:
            return
        orders.tell(TradingEnds(at_ns=system.now_ns()))  # again and again: it may have been restarted meanwhile
        if market is not None and isinstance(system.clock, ManualClock):
            settle(system, market)
        else:
            tick.wait(LOOK_S)
    logger.warning(fact("orders left open", orders=len(left), waited_s=within_s))


def _health(log: MessageLog) -> dict[str, object]:
    state = log.state
    return {"dropped": state.dropped, "error": state.reason}


def _clock(market: TwinMarket | None) -> Clock:
    """The twin's time where there is one: moved by us, or running at its speed; otherwise the machine's."""
    if market is None:
        return WallClock()
    state = market.clock()
    if state["speed"] == "max":
        return ManualClock(market.now_ns)
    return ScaledClock(
        virtual_start_ns=int(state["now_ns"]), wall_start_ns=int(state["wall_ns"]), speed=float(state["speed"])
    )


def _wait(
    system: ThreadSystem, market: TwinMarket | None, until_ns: int | None, should_stop: Callable[[], bool]
) -> None:
    """Let the threads run by themselves until something ends it: someone, a minute after the close of the last session
    (its bars are on their way), or the end of the feed once everything that it led to is done."""
    tick = threading.Event()
    end_ns = None if until_ns is None else until_ns + round(GRACE_NS * system.pace)
    while system.exit_code is None and not should_stop():
        tick.wait(LOOK_S)
        if end_ns is not None and system.clock.now_ns() > end_ns:
            return
        if market is not None and market.has_ended() and market.has_delivered():
            system.run_until_idle()
            return


def _summary(
    place: Place, config: Config, plan: TradingPlan, system: ThreadSystem, exit_code: int, *, began_ns: int,
    ended_ns: int, elapsed_s: float,
) -> dict[str, Any]:  # fmt: skip
    """The document of `run-trader --json`; money as text. Counts are of this run."""
    run_id = place.run_id
    with Reader(place.ledger) as reader:
        ended, run = Counter(reader.statuses(since_ns=began_ns)), reader.run(run_id)
        summary, positions = reader.summary(), reader.positions()
    with LogReader(place.log) as log:
        kinds = log.kinds()
    orders = ended.total()
    return {
        "run_id": run_id,
        "dry_run": place.dry_run,
        "environment": config.environment,
        "started_at": _iso(began_ns),
        "ended_at": _iso(ended_ns),
        "sessions": run.sessions,
        "symbols": list(plan.names),
        "bars": kinds.get("BarClosed", 0),
        "signals": kinds.get("SignalReported", 0),
        "orders": {
            "submitted": 0 if place.dry_run else orders - ended["recorded"],
            "filled": ended["filled"],
            "rejected": 0 if place.dry_run else ended["rejected"],
            "not_sent": orders if place.dry_run else 0,
            "canceled": ended["canceled"] + ended["expired"],
            "refused": run.refused,
        },
        "fills": run.fills,
        "equity_start": _money(run.equity_start_usd),
        "equity_end": _money(summary.equity_usd),
        "cash": _money(summary.cash_usd),
        "positions": [{"symbol": p["symbol"], "quantity": str(p["quantity"]), "cost_usd": _money(p["cost_usd"])} for p in positions],
        "restarts": sum(int(str(row["restarts"])) for row in system.tree()),
        "dead_letters": system.dead_letter_count,
        "reconciliations": {
            "checked": run.checked,
            "differences": run.differences,
        },
        "exit_code": exit_code,
        "exit_reason": None if exit_code == 0 else system.exit_reason,
        "elapsed_s": round(elapsed_s, 3),
    }  # fmt: skip


def _money(value: Decimal | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _iso(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
