"""Traders on threads and in processes of their own, against the twin's server: for the proofs on whole processes."""

import itertools
import json
import multiprocessing
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar, Union

import requests
from click.testing import CliRunner

from algo_royale.app.cli import _loaded, root
from algo_royale.app.trader import Endpoints, live_start, run_trader, twin_process
from algo_royale.clock import WallClock
from algo_royale.research import artifacts
from algo_royale.research.handover import TradingPlan
from algo_royale.sessions import calendar
from conftest import ROOT
from databases import PASSWORD
from db.database import PostgresUrl
from db.store import Store
from traders import config, last_session, money_facts, plan

LIFE_S = 300.0  # no life of a trader takes so long, even on a busy machine
Process = Union["subprocess.Popen[str]", "Forked"]
P = TypeVar("P", bound=Process)
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["algo_royale.app.backtest", "algo_royale.app.trader", "algo_royale.app.cli.trader"])
LEDGER_ID = "0123456789ab"  # the one of the simulation: order ids begin with it
PAPER = "prod_paper"  # where a ledger may be on a server
# prod_paper refuses the twin for its address; here it is let in, and leads the time. All else is as with Alpaca.
PAPER_AT_THE_TWIN = """
import json, os
import algo_royale.app.cli.trader as command
from algo_royale.app.cli import main
from algo_royale.app.trader import Endpoints

found = json.loads(os.environ.pop("TWIN"))
command._endpoints = lambda *_: Endpoints(**{**found, "keys": tuple(found["keys"])})
main()
"""


def new_home(home: Path, start: date, on_server: PostgresUrl | None = None) -> Path:
    """A home with an empty ledger, whose orders will be called like those of the simulation."""
    home.mkdir(parents=True)
    now_ns = calendar().offset(start, 0).label_ns
    place = on_server or home / "ledger.db"
    Store.open(place, run_id="new", now_ns=now_ns, live_start_ns=live_start(now_ns), ledger_id=LEDGER_ID).close()
    return home


def twin(
    start: date, sessions: int, *, speed: str = "max", the_plan: TradingPlan | None = None
) -> AbstractContextManager[Endpoints]:
    """The twin in a process of its own, over so many sessions."""
    return twin_process(the_plan or plan(), config(), first=start, last=last_session(start, sessions), speed=speed)


def trade(
    home: Path, *, start: date, sessions: int, speed: str = "max", the_plan: TradingPlan | None = None, run_id: str = "run-1",
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Run a trader on threads in this process against a twin in a process of its own; the run's summary."""
    the_plan = the_plan or plan()
    with twin(start, sessions, speed=speed, the_plan=the_plan) as endpoints:
        return run_trader(the_plan, config(), endpoints, home=home, run_id=run_id, **options)


@contextmanager
def ledger(home: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{home / 'ledger.db'}?mode=ro", uri=True)) as database:
        yield database


# --- in a process of its own -----------------------------------------------------------------------------------------


def write_artifacts(root: Path, the_plan: TradingPlan) -> None:
    """What a backtest would have left, had it found this plan viable."""

    def write(path: Path, kind: str, **fields: Any) -> None:
        document = {"schema_version": artifacts.SCHEMA_VERSION, "kind": kind, "meta": {}, **fields}
        artifacts.write(path, artifacts.dumps(document))

    for part in the_plan.symbols:
        judged = {"symbol": part.symbol, "is_viable": True, "viability_score": part.viability}
        candidates = [
            {"strategy": m.strategy, "strategy_id": m.strategy_id, "weight": m.weight, "is_viable": True,
             "viability_score": part.viability}
            for m in part.members
        ]  # fmt: skip
        for m in part.members:
            path = artifacts.evaluation_path(root, part.symbol, m.strategy)
            write(path, "signal_evaluation", strategy=m.strategy, oos={}, best_params=m.params, **judged)
        best = part.members[0]
        write(
            artifacts.symbol_summary_path(root, part.symbol), "signal_summary", strategy=best.strategy,
            candidates=candidates, best_params=best.params, **judged,
        )  # fmt: skip
    write(
        artifacts.portfolio_summary_path(root, the_plan.names), "portfolio_summary", strategy=the_plan.portfolio,
        symbols=the_plan.names, universe=the_plan.universe, is_viable=True, viability_score=1.0, candidates=[],
        best_params=the_plan.portfolio_params,
    )  # fmt: skip
    summaries = [artifacts.symbol_summary_path(root, part.symbol) for part in the_plan.symbols]
    summaries.append(artifacts.portfolio_summary_path(root, the_plan.names))
    units = {path.relative_to(root).as_posix(): {"status": "complete"} for path in summaries}
    window = {"warmup_bars": the_plan.warmup_bars, "end_date": the_plan.last_session}
    versions = {m.strategy: m.version for part in the_plan.symbols for m in part.members if m.version}
    write(
        root / "run_manifest.json", "run_manifest", units=units, holdout_reads=0, symbols=the_plan.names,
        timeframe=the_plan.timeframe, windows=[window], end="2013-03-01", settings={"strategy_versions": versions},
    )  # fmt: skip


def prepared(
    home: Path, start: date, the_plan: TradingPlan | None = None, *, on_server: PostgresUrl | None = None
) -> Path:
    """A --home whose artifacts are the plan and whose ledger is new; the folder of its environment in it."""
    directory = new_home(home / (PAPER if on_server else "dev_integration"), start, on_server)
    write_artifacts(directory / "artifacts", the_plan or plan())
    return directory


def _environment(endpoints: Endpoints) -> dict[str, str]:
    """The variables by which a trader finds this twin."""
    key, secret = endpoints.keys
    urls = {
        f"ALGO_ROYALE__BROKER__{name.upper()}": getattr(endpoints, name)
        for name in ("trading_url", "data_url", "trading_stream_url", "data_stream_url")
    }
    return {**urls, "APCA_API_KEY_ID": key, "APCA_API_SECRET_KEY": secret}


def spawn(home: Path, endpoints: Endpoints, *options: str) -> "subprocess.Popen[str]":
    """`run-trader --json` on this home against a twin that somebody else runs."""
    return subprocess.Popen(
        [sys.executable, "-m", "algo_royale", "--home", str(home), "--json", "run-trader", *options],
        env={**os.environ, **_environment(endpoints), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def paper_variables(on_server: PostgresUrl) -> dict[str, str]:
    """What prod_paper needs said when it trades years ago at a twin that is silent within its sessions. What is open at a
    halt stays open, so that the next start goes on as if nothing had been."""
    trader = {
        "research_age_days_max": "off", "feed_silent_s": "off", "symbol_silent_s": "off", "reconcile_every_s": "86400",
    }  # fmt: skip
    names = {f"ALGO_ROYALE__TRADER__{name.upper()}": value for name, value in trader.items()}
    others = {"ALGO_ROYALE__RISK__ON_HALT": "keep", "ALGO_ROYALE__LOG__LEVEL": "debug"}
    return {**names, **others, "ALGO_ROYALE__DATABASE__URL": on_server.text}


def spawn_paper(home: Path, endpoints: Endpoints, on_server: PostgresUrl, *options: str) -> "subprocess.Popen[str]":
    """`run-trader --json` in prod_paper, with its ledger on a server, against a twin that somebody else runs."""
    told = {"TWIN": json.dumps(asdict(endpoints)), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", PAPER_AT_THE_TWIN, "--home", str(home), "--env", PAPER, "--json", "run-trader", *options],
        env={**os.environ, **paper_variables(on_server), **told}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


class Forked:
    """What `spawn` gives, of a process that has the program's modules already: a proof of many lives spends its time in them."""

    def __init__(self, home: Path, endpoints: Endpoints, *options: str) -> None:
        self._words = home / f"words-{sum(1 for _ in home.glob('words-*'))}"
        arguments = ["--home", str(home), "--json", "run-trader", *options]
        self._process = FORKS.Process(target=_become, args=(arguments, _environment(endpoints), self._words))
        self._process.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.pid is not None and self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("run-trader", timeout or 0.0)
        return self._words.read_text() if self._words.exists() else "", ""


def _become(arguments: list[str], environment: dict[str, str], words: Path) -> None:
    """What such a process does."""
    os.environ.update(environment)
    with words.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    root.main(arguments, prog_name="algo-royale")


def ended(process: Process, within_s: float = LIFE_S) -> tuple[int, str, str]:
    """Exit code and words of a process that has so long to end."""
    out, err = process.communicate(timeout=within_s)
    return process.returncode, out, err


@contextmanager
def running(process: P) -> Iterator[P]:
    """Nothing is left of it, however the test ends."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def turns(process: Process, every_s: float) -> Iterator[int]:
    """Counts for whoever looks whether something has come about; fails when the process has ended or takes too long."""
    tick, now_s = threading.Event(), WallClock().monotonic_s
    due_s = now_s() + LIFE_S
    for turn in itertools.count():
        assert process.poll() is None, f"it ended by itself: {process.communicate()}"
        assert now_s() < due_s, "it did not get there"
        yield turn
        tick.wait(every_s)


def wait(process: Process, condition: Callable[[], bool]) -> None:
    for _ in turns(process, 0.005):
        if condition():
            return


class BadDay:
    """Lets the twin's server fail: a share of all requests and frames, and at each `strike` a line, a key, a clock or everything."""

    STRIKES = (
        "close", "reset", "mute", "half_open", "slow", "refuse", "deny", "restart", "skew", "split", "unauthorized", "latency",
        "batches", "none",
    )  # fmt: skip

    def __init__(self, endpoints: Endpoints, seed: int, share: float, *, seconds: Sequence[float] = (0.2, 1.0)) -> None:
        """`seconds`: of the machine, how long lines stay mute or refused, and the exchange gone."""
        self._url, self._rng, self._seconds = f"{endpoints.trading_url}/sim/faults", random.Random(seed), seconds
        self.struck: list[str] = []
        self._ask(chance={"seed": seed, "requests": share, "frames": share})

    def strike(self) -> None:
        what, seconds = self._rng.choice(self.STRIKES), self._rng.choice(self._seconds)
        endpoint = self._rng.choice(("data", "trading"))
        self.struck.append(what)
        match what:
            case "none":
                pass
            case "restart":
                self._ask(restart={"seconds": seconds})
            case "skew":
                self._ask(clock_skew_s=self._rng.uniform(-2, 2))
            case "split":
                self._ask(frames=[{"endpoint": endpoint, "kind": what, "count": 5}])
            case "unauthorized":
                self._ask(requests=[{"kind": what, "count": self._rng.randint(1, 4)}])
            case "latency":
                self._ask(latency={"seed": self._rng.randrange(1000), "median_s": 0.003, "most_s": 0.1})
            case "batches":
                self._ask(frame_messages=self._rng.choice((1, 2, 100)))
            case "deny":
                status = self._rng.choice((429, 500, 503))
                self._ask(cut=[{"endpoint": endpoint, "how": "close", "seconds": seconds, "status": status}])
            case _:
                self._ask(cut=[{"endpoint": endpoint, "how": what, "seconds": seconds}])

    def forget(self) -> None:
        """Let the exchange restart without orders, fills and positions."""
        self._ask(restart={"seconds": 0.2, "keep": False})

    def happened(self) -> dict[str, int]:
        found: dict[str, int] = self._ask()["happened"]
        return found

    def _ask(self, **order: Any) -> Any:
        answer = requests.post(self._url, json=order, timeout=30)
        answer.raise_for_status()
        return answer.json()


def twin_now_ns(endpoints: Endpoints) -> int:
    return int(requests.get(f"{endpoints.trading_url}/sim/clock", timeout=30).json()["now_ns"])


def twin_truth(endpoints: Endpoints) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{endpoints.trading_url}/sim/truth", timeout=30).json()
    return found


def _ledger_in(where: Path | PostgresUrl) -> Path | PostgresUrl:
    return where / "ledger.db" if isinstance(where, Path) else where


def facts_on_disk(where: Path | PostgresUrl) -> dict[str, list[tuple[object, ...]]]:
    """The money facts of a ledger, in a folder or on a server, whose trader has ended."""
    store = Store.open(_ledger_in(where), run_id="reader", now_ns=0, live_start_ns=0)
    try:
        return money_facts(store)
    finally:
        store.close()


def truth_errors(where: Path | PostgresUrl, truth: Mapping[str, Any]) -> list[str]:
    """Where a ledger on disk is not the twin's truth: orders held twice, fills lost or doubled, positions, cash."""
    store = Store.open(_ledger_in(where), run_id="reader", now_ns=0, live_start_ns=0)
    try:
        account = store.account
        rows = store.database.connection().execute("SELECT client_order_id, quantity FROM fill").fetchall()
        known = {row[0] for row in store.database.connection().execute("SELECT client_order_id FROM orders")}
    finally:
        store.close()
    assert account is not None
    filled: Counter[str] = Counter()
    for client_order_id, quantity in rows:
        filled[client_order_id] += Decimal(quantity)  # type: ignore[assignment]
    ids = Counter(order["client_order_id"] for order in truth["orders"])
    errors = [f"{count} orders {name}" for name, count in ids.items() if count > 1]
    errors += [f"{name} is in no ledger" for name in ids if name not in known]
    for order in truth["orders"]:
        name = order["client_order_id"]
        if filled[name] != Decimal(order["filled_qty"]):
            errors.append(f"{name}: ledger {filled[name]}, twin {order['filled_qty']}")
    ours = {symbol: held.quantity for symbol, held in account.positions.items() if held.quantity}
    theirs = {symbol: Decimal(held["qty"]) for symbol, held in truth["positions"].items()}
    errors += [f"positions: ledger {ours}, twin {theirs}"] if ours != theirs else []
    return errors + (
        [f"cash: ledger {account.cash}, twin {truth['cash']}"] if account.cash != Decimal(truth["cash"]) else []
    )


def ask_paper(home: Path, on_server: PostgresUrl, *words: str) -> Any:
    """What a command says of prod_paper with its ledger on a server, as a document; never with the server's password."""
    _loaded.cache_clear()
    words = ("--home", str(home), "--env", PAPER, "--json", *words)
    done = CliRunner().invoke(root, words, env=paper_variables(on_server))
    _loaded.cache_clear()
    assert done.exit_code == 0, done.output
    assert PASSWORD not in done.output
    return json.loads(done.stdout)
