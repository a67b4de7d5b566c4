"""Nothing that risk has not approved and the ledger has not recorded reaches the broker: by types, by rule, and at run time."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal as D
from pathlib import Path

import pytest

from actors.kernel import Actor, ChildSpec, SteppedSystem, Supervisor
from actors.messages import (
    BrokerMessage,
    DecisionRecorded,
    LedgerSnapshot,
    LookUpOrder,
    OrderAbsent,
    OrderAccepted,
    OrderRecord,
    Reconciled,
    SubmitOrder,
)
from actors.orders import OrdersActor
from algo_royale.sessions import calendar
from db.database import DRIVER_ERRORS, execute
from db.store import Store

ROOT = Path(__file__).parents[2]
SECOND_NS = 1_000_000_000
SNIPPET = """
from decimal import Decimal
from actors import messages as m
from actors.kernel import Ref
from algo_royale import orders, risk
from algo_royale.broker.port import BrokerPort
from algo_royale.engine import Decision


def told(ledger: Ref[m.LedgerMessage], broker: Ref[m.BrokerMessage], wish: m.OrderIntent, yes: m.ApprovedIntent) -> None:
    broker.tell(wish)  # an intent is no message for the broker
    broker.tell(yes)  # nor is an approved one: it is not recorded yet
    ledger.tell(yes)  # the ledger records decisions
    m.SubmitOrder(at_ns=0, order=wish, until_ns=1)  # what is sent is what was recorded
    m.SubmitOrder(at_ns=0, order=yes, until_ns=1)
    m.DecisionRecorded(at_ns=0, decision_id="", bar_end_ns=0, orders=(yes,))
    m.RecordDecision(
        at_ns=0, decision_id="", bar_end_ns=0, session_date="", equity_usd=Decimal(0), cash_usd=Decimal(0), strategy="",
        targets=(), approved=(wish,), refused=(),
    )


def decided(wish: orders.OrderIntent, no: risk.RefusedOrder, decision: Decision) -> None:
    Decision(
        decision_id="", bar_end_ns=0, session_date="", equity_usd=Decimal(0), cash_usd=Decimal(0), strategy="",
        approved=(wish,),
    )
    Decision(
        decision_id="", bar_end_ns=0, session_date="", equity_usd=Decimal(0), cash_usd=Decimal(0), strategy="",
        approved=(no,),
    )
    risk.ApprovedOrder(wish)  # and it has no seal
"""


def test_an_unapproved_order_does_not_type_check_anywhere_on_its_way(tmp_path: Path) -> None:
    """mypy --strict finds each planted mistake, and nothing else."""
    snippet = tmp_path / "unapproved.py"
    snippet.write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(snippet)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    lines = SNIPPET.splitlines()
    wrong = {
        lines[int(number) - 1].strip().split("  #")[0]
        for number in re.findall(r"unapproved\.py:(\d+): error", done.stdout)
    }
    assert wrong == {
        "broker.tell(wish)", "broker.tell(yes)", "ledger.tell(yes)", "m.SubmitOrder(at_ns=0, order=wish, until_ns=1)",
        "m.SubmitOrder(at_ns=0, order=yes, until_ns=1)",
        'm.DecisionRecorded(at_ns=0, decision_id="", bar_end_ns=0, orders=(yes,))',
        "targets=(), approved=(wish,), refused=(),", "approved=(wish,),", "approved=(no,),", "risk.ApprovedOrder(wish)",
    }, done.stdout  # fmt: skip


# What is made where: a type proves nothing if anybody makes its values.
MADE_IN = {
    "ApprovedOrder": {"algo_royale/risk.py"},
    "ApprovedIntent": {"actors/portfolio.py"},
    "RecordDecision": {"actors/portfolio.py"},
    "DecisionRecorded": {"actors/ledger.py"},
    "SubmitOrder": {"actors/orders.py"},
    "OrderRecord": {"actors/ledger.py", "actors/orders.py"},  # the latter: one that a person put in the place of ours
}


def made(name: str) -> set[str]:
    """The modules that call `name`, however they import it."""
    return {path for path, call in calls() if (call == name or call.endswith(f".{name}"))}


def calls() -> Iterator[tuple[str, str]]:
    for package in ("algo_royale", "actors", "db"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    yield path.relative_to(ROOT).as_posix(), ast.unparse(node.func)


@pytest.mark.parametrize("name", MADE_IN)
def test_only_its_owner_makes_it(name: str) -> None:
    assert made(name) == MADE_IN[name]


def test_only_the_broker_actor_submits() -> None:
    places = {path for path, call in calls() if call.endswith("broker.submit")}

    assert places == {"actors/broker.py"}


def test_the_ledger_has_no_order_without_a_decision() -> None:
    store = Store.open(None, run_id="r", now_ns=0, live_start_ns=0, ledger_id="l")
    columns = (
        "run_id, at_ns, client_order_id, decision_id, bar_end_ns, symbol, side, quantity, order_type, time_in_force, "
        "reference_price_usd"
    )

    with pytest.raises(DRIVER_ERRORS, match="FOREIGN KEY"):
        execute(
            store.database,
            f"INSERT INTO orders ({columns}) VALUES ('r', 0, 'ar-1', 'no decision', 0, 'A', 'buy', '1', 'market', 'day', '1')",
        )

    assert execute(store.database, "SELECT count(*) FROM orders") == [(0,)]


class Probe(Actor[BrokerMessage]):
    heard: list[BrokerMessage]

    def __init__(self, heard: list[BrokerMessage]) -> None:
        self.heard = heard

    def receive(self, message: BrokerMessage) -> None:
        self.heard.append(message)


class Taker(Probe):
    """A broker that holds nothing at first and takes every order."""

    def receive(self, message: BrokerMessage) -> None:
        super().receive(message)
        match message:
            case LookUpOrder():
                answer: OrderAbsent | OrderAccepted = OrderAbsent(
                    at_ns=self.now_ns, client_order_id=message.client_order_id
                )
            case SubmitOrder():
                answer = OrderAccepted(
                    at_ns=self.now_ns, client_order_id=message.order.client_order_id, broker_order_id="b", status="accepted",
                    filled_quantity=D(0),
                )  # fmt: skip
            case _:
                return
        self.tell(self.ref("root/orders"), answer)


def test_the_dispatcher_sends_only_what_the_ledger_says_it_has_recorded() -> None:
    """An order that it merely hears of (a change, an answer) is not sent; one in the ledger's facts or decisions is."""
    heard: list[BrokerMessage] = []
    system = SteppedSystem(1)
    specs = [
        ChildSpec(id="broker", factory=lambda: Taker(heard)),
        ChildSpec(id="ledger", factory=lambda: Probe([])),
        ChildSpec(
            id="orders",
            factory=lambda: OrdersActor(calendar(), ledger=system.ref("root/ledger"), broker=system.ref("root/broker")),
        ),
    ]
    system.start(ChildSpec(id="root", factory=lambda: Supervisor(specs)))
    orders = system.ref("root/orders")

    def record(name: str, status: str = "recorded") -> OrderRecord:
        return OrderRecord(
            client_order_id=name, broker_order_id=None, decision_id="d", symbol="A", side="buy", quantity=D(1),
            filled_quantity=D(0), status=status,
        )  # fmt: skip

    orders.tell(
        LedgerSnapshot(
            at_ns=1, ledger_id="l", cash_usd=D(1), positions=(), open_orders=(record("of the facts"),),
            last_decision_bar_end_ns=0, live_start_ns=0,
        )
    )  # fmt: skip
    orders.tell(DecisionRecorded(at_ns=1, decision_id="d", bar_end_ns=0, orders=(record("of a decision"),)))
    system.run_until_idle()
    assert not any(isinstance(message, SubmitOrder) for message in heard)  # not before the broker is reconciled with
    orders.tell(Reconciled(at_ns=1, checked=1, differences=0, cash_usd=D(1), positions=()))
    system.run_until_idle()
    system.advance_to(10 * SECOND_NS)  # one that a former life recorded is looked for twice before it is sent

    sent = [message.order.client_order_id for message in heard if isinstance(message, SubmitOrder)]
    assert sorted(sent) == ["of a decision", "of the facts"]
