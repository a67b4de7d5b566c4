"""The trading tree: which actors there are, who knows whom, who restarts with whom."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from actors.broker import PROMPT_S, BrokerActor
from actors.clock import ClockActor
from actors.journal import JournalActor
from actors.kernel import ChildSpec, Intensity, MailboxSpec, Overflow, Ref, Strategy, Supervisor
from actors.ledger import LedgerActor
from actors.market_data import FOR_EVER, MarketDataActor
from actors.market_data import RETRY_S as DATA_RETRY_S
from actors.orders import UNCERTAIN_RETRY_S, OrdersActor
from actors.portfolio import PortfolioActor
from actors.session import PATIENCE_S as JOB_PATIENCE_S
from actors.session import SessionActor
from actors.signals import RETRY_S as HISTORY_RETRY_S
from actors.signals import SignalActor
from algo_royale.broker.connection import PATIENT
from algo_royale.broker.port import BrokerPort, MarketDataPort, StreamPort
from algo_royale.broker.staleness import Patience
from algo_royale.engine import EngineConfig
from algo_royale.market import Timeframe
from algo_royale.phases import Job, PhaseTimes
from algo_royale.sessions import Calendar
from algo_royale.strategies.combined import CombinedSignal
from db.store import Store

ROOT = "root"
TRADING = f"{ROOT}/trading"
SIGNALS = f"{TRADING}/signals"


class Addresses(Protocol):
    """What gives a ref for a path before its actor exists (both systems do)."""

    def ref(self, path: str) -> Ref[Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trader:
    """Everything a trading tree is made of; the same for threads and for the stepped system."""

    symbols: tuple[str, ...]
    timeframe: Timeframe
    combined: Callable[[str], CombinedSignal]
    engine: EngineConfig
    warmup_bars: int
    live_start_ns: int
    calendar: Calendar
    broker: BrokerPort
    data: MarketDataPort
    streams: StreamPort
    keys: tuple[str, str] = field(repr=False)
    store: Callable[[], Store]
    log_health: Callable[[], Mapping[str, object]] = dict
    watermark_s: float = 5.0
    close_grace_s: float = 0.0
    buys_wait: bool = False  # for the sales of the same decision, whose proceeds they need
    patience: Patience = FOR_EVER  # with a quiet feed; virtual seconds
    requests_per_minute: int | None = None  # to each of the broker's two hosts
    reconcile_every_s: int = 30
    pre_market_s: int = 1800
    after_close_s: float = 30.0
    research_changes: Callable[[], str] = str  # how the research on disk differs; "" for not at all
    cancels_on_halt: bool = True
    second_look_s: float = 0.0
    beside: tuple[ChildSpec, ...] = ()  # actors that look on
    pace: float = 1.0  # virtual seconds per second: waits for networks and for other threads are real ones


def factories(trader: Trader, addresses: Addresses) -> dict[str, Callable[[], Any]]:
    """Path -> what makes the actor. Replay uses the same table."""
    ref, pace = addresses.ref, trader.pace
    ledger, broker, orders = ref(f"{TRADING}/ledger"), ref(f"{TRADING}/broker"), ref(f"{TRADING}/orders")
    portfolio, market_data = ref(f"{TRADING}/portfolio"), ref(f"{TRADING}/market_data")
    signals = {s: ref(f"{SIGNALS}/signal:{s}") for s in trader.symbols}
    times = PhaseTimes(pre_market_s=trader.pre_market_s, after_close_s=trader.after_close_s * pace)
    jobs = {"reconcile": (trader.reconcile_every_s, (orders,)), "journal": (86_400, (ref(f"{ROOT}/journal"),))}
    table: dict[str, Callable[[], Any]] = {
        f"{ROOT}/journal": partial(JournalActor, trader.log_health),
        f"{ROOT}/clock": partial(
            ClockActor, jobs, calendar=trader.calendar, times=times, session=ref(f"{TRADING}/session")
        ),
        f"{TRADING}/ledger": partial(
            LedgerActor, trader.store, calendar=trader.calendar, orders=orders, portfolio=portfolio,
            settlement_days=trader.engine.rules.settlement_days,
        ),
        f"{TRADING}/broker": partial(
            BrokerActor, trader.broker, trader.streams, keys=trader.keys, orders=orders,
            reconnect=PATIENT.at_pace(pace), requests_per_minute=trader.requests_per_minute, prompt_s=PROMPT_S * pace,
        ),
        f"{TRADING}/orders": partial(
            OrdersActor, trader.calendar, ledger=ledger, broker=broker, timeframe=trader.timeframe,
            retry_s=UNCERTAIN_RETRY_S * pace, cancels=trader.cancels_on_halt,
            second_look_s=trader.second_look_s * pace, buys_wait=trader.buys_wait,
        ),
        f"{TRADING}/portfolio": partial(
            PortfolioActor, trader.engine, trader.calendar, ledger=ledger, orders=orders, market_data=market_data,
            timeframe=trader.timeframe, watermark_s=trader.watermark_s * pace,
        ),
        f"{TRADING}/session": partial(
            SessionActor, trader.calendar, (market_data, orders, portfolio), times=times, ledger=ledger,
            patience_s=JOB_PATIENCE_S * pace,
            doers={
                Job.SETTLEMENT: (ledger,), Job.HOLDS: (portfolio,), Job.RECONCILE: (orders,), Job.POSITIONS: (ledger,),
                Job.EQUITY: (ledger,), Job.WARM_UP: tuple(signals.values()), Job.SUBSCRIPTIONS: (market_data,),
                Job.PARITY: (portfolio,), Job.ARTIFACTS: (market_data,),
            },
        ),
        f"{TRADING}/market_data": partial(
            MarketDataActor, trader.symbols, timeframe=trader.timeframe, calendar=trader.calendar, data=trader.data,
            streams=trader.streams, keys=trader.keys, signals=signals, portfolio=portfolio, orders=orders,
            patience=trader.patience.at_least(2.0 * pace), close_grace_s=trader.close_grace_s,
            reconnect=PATIENT.at_pace(pace), requests_per_minute=trader.requests_per_minute, retry_s=DATA_RETRY_S * pace,
            research_changes=trader.research_changes,
        ),
    }  # fmt: skip
    for symbol, path in ((s, f"{SIGNALS}/signal:{s}") for s in trader.symbols):
        table[path] = partial(
            SignalActor, symbol, partial(trader.combined, symbol), timeframe=trader.timeframe,
            calendar=trader.calendar, warmup_bars=trader.warmup_bars, live_start_ns=trader.live_start_ns,
            closes_kept=trader.engine.lookback + 2, market_data=market_data, portfolio=portfolio,
            retry_s=HISTORY_RETRY_S * pace,
        )  # fmt: skip
    return table


def tree(trader: Trader, addresses: Addresses) -> ChildSpec:
    """The root of the trading side. `rest_for_one` because the list is a chain of dependencies: data flows only while
    all consumers stand, and whoever restarts takes those after it along into a fresh epoch."""
    make = factories(trader, addresses)
    # a reader waits for room: an update that was thrown away would be a fill unheard; the broker ends a line that it cannot empty
    edge = MailboxSpec(overflow=Overflow.BLOCK)
    stale_edge = MailboxSpec(overflow=Overflow.BLOCK, keep=False)
    stale = MailboxSpec(keep=False)  # market data that waited through a restart is asked for again, never acted on late

    def child(path: str, **options: Any) -> ChildSpec:
        return ChildSpec(id=path.rsplit("/", 1)[1], factory=make[path], **options)

    # A stop may come while the first history of all is being loaded, for which kernels are compiled.
    signals = [child(path, mailbox=stale, shutdown=15.0) for path in make if path.startswith(SIGNALS)]
    trading = [
        child(f"{TRADING}/ledger"),
        child(f"{TRADING}/broker", mailbox=edge, hang_after=120.0),
        child(f"{TRADING}/orders"),
        child(f"{TRADING}/portfolio"),
        ChildSpec(id="signals", factory=lambda: Supervisor(signals, intensity=Intensity(restarts=10, period=60.0))),
        child(f"{TRADING}/session"),
        child(f"{TRADING}/market_data", mailbox=stale_edge, hang_after=180.0),
    ]
    below_root = [
        child(f"{ROOT}/journal"),
        child(f"{ROOT}/clock"),
        *trader.beside,
        ChildSpec(
            id="trading",
            factory=lambda: Supervisor(trading, strategy=Strategy.REST_FOR_ONE, intensity=Intensity(5, 60.0)),
        ),
    ]
    return ChildSpec(id=ROOT, factory=lambda: Supervisor(below_root, intensity=Intensity(3, 60.0)))
