"""From the message log of a run on threads every actor can be run again, and says the same."""

from pathlib import Path
from typing import Any

import pytest

from actors.kernel.journal import LogReader
from actors.kernel.replay import ReplayReport, ReplayRuntime, replay
from actors.messages import OrderAccepted
from actors.orders import OrdersActor
from actors.portfolio import PortfolioActor
from actors.signals import SignalActor
from algo_royale.app.cli.messages import trader_factories
from live_traders import new_home, trade
from traders import BUSY, SYMBOLS

EDGES = {"root/trading/broker", "root/trading/market_data"}
ACTORS = {
    "root/clock",
    "root/journal",
    "root/trading/ledger",
    "root/trading/orders",
    "root/trading/portfolio",
    "root/trading/session",
    *(f"root/trading/signals/signal:{symbol}" for symbol in SYMBOLS),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of ten sessions on threads, with a dozen fills."""
    home = new_home(tmp_path_factory.mktemp("replay") / "home", BUSY)
    summary = trade(home, start=BUSY, sessions=10)
    assert summary["exit_code"] == 0 and summary["fills"] >= 12
    return home / "runs" / "run-1"


def replayed(folder: Path) -> ReplayReport:
    runtime = ReplayRuntime()
    with LogReader(folder / "messages.db") as reader:
        return replay(reader, trader_factories(folder, reader.run(), runtime), runtime=runtime)


def test_every_actor_but_the_network_edges_sends_exactly_what_it_sent(run: Path) -> None:
    report = replayed(run)

    assert {actor.path for actor in report.actors} == ACTORS
    assert set(report.skipped) == EDGES
    assert report.same and report.exact, "\n".join(report.lines())
    quiet = {actor.path for actor in report.actors if not actor.sent}
    assert quiet <= {"root/journal"}  # it only looks; all others had something to say


def _forgets_rejections(self: Any, message: Any) -> None:
    if not isinstance(message, OrderAccepted):
        ANSWER(self, message)


def _decides_on_another_close(self: Any, bar_end_ns: int, reports: Any) -> Any:
    return EVENT(self, bar_end_ns, {s: r for s, r in reports.items() if s != "GOOG"})


def _never_reports(self: Any) -> None:
    return None


ANSWER, EVENT = OrdersActor._on_answer, PortfolioActor._event


@pytest.mark.parametrize(
    ("actor", "method", "planted", "where"),
    [
        (OrdersActor, "_on_answer", _forgets_rejections, {"root/trading/orders"}),
        (PortfolioActor, "_event", _decides_on_another_close, {"root/trading/portfolio"}),
        (SignalActor, "_report_last", _never_reports, {path for path in ACTORS if "signal:" in path}),
    ],
)
def test_a_change_of_one_actors_code_shows_in_that_actor_alone(
    run: Path, monkeypatch: pytest.MonkeyPatch, actor: type, method: str, planted: Any, where: set[str]
) -> None:
    monkeypatch.setattr(actor, method, planted)

    report = replayed(run)

    assert not report.same
    assert {a.path for a in report.actors if a.difference_count} == where
