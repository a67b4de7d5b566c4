"""`status`, `stop`, `orders`, `positions`, `fills` and `db` on a real ledger file."""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from decimal import Decimal as D
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from algo_royale.app.cli import Settings, _loaded, root
from algo_royale.app.cli.ledger import is_locked
from algo_royale.app.cli.trader import set_ledger_aside
from algo_royale.app.lock import single_instance
from algo_royale.errors import AlreadyRunning, LedgerError
from algo_royale.orders import Fill, OrderEvent, OrderIntent, OrderStatus
from algo_royale.risk import TradingState
from conftest import ROOT
from databases import PASSWORD, new_schema, server
from db.database import PostgresUrl, execute, open_database, transaction
from db.migrations import MIGRATIONS, TABLES, migrate
from db.store import NewDecision, Reader, Store

NOON_NS = 1_325_610_000_000_000_000  # 2012-01-03 12:00 in New York


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An environment whose trader has bought AAPL and still wants IBM."""
    store = Store.open(
        tmp_path / "dev_integration" / "ledger.db", run_id="trader-1", now_ns=NOON_NS, live_start_ns=NOON_NS,
        ledger_id="ledger-a",
    )  # fmt: skip
    store.reconcile(cause_of="start", checked=1, cash_usd=D(1000), equity_usd=D(1000), positions={}, now_ns=NOON_NS)
    intents = [
        OrderIntent(client_order_id=f"ar-{s}", symbol=s, side="buy", quantity=D(3), reference_price_usd=D(9))
        for s in ("AAPL", "IBM")
    ]
    store.record_decision(
        NewDecision(
            decision_id="d-1", bar_end_ns=NOON_NS, session_date="2012-01-03", equity_usd=D(1000), cash_usd=D(1000),
            strategy="EqualWeight", targets="[]", approved=intents,
        ),
        now_ns=NOON_NS,
    )  # fmt: skip
    fill = Fill(
        execution_id="e-1", client_order_id="ar-AAPL", broker_order_id="b-1", symbol="AAPL", side="buy", quantity=D(3),
        cumulative_quantity=D(3), price_usd=D("9.1250"), at_ns=NOON_NS + 1,
    )  # fmt: skip
    store.record_order_event("ar-AAPL", OrderEvent.FILL, broker_order_id="b-1", fill=fill, now_ns=NOON_NS + 1)
    store.close()
    return tmp_path


def run(home: Path, *args: str, given: str | None = None) -> Result:
    return CliRunner().invoke(root, ["--home", str(home), *args], input=given)


def document(home: Path, *args: str) -> object:
    result = run(home, "--json", *args)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_orders_show_where_each_stands(home: Path) -> None:
    orders = document(home, "orders")

    assert [(o["symbol"], o["status"], o["filled_quantity"]) for o in orders] == [  # type: ignore[attr-defined]
        ("AAPL", "filled", "3"), ("IBM", "recorded", "0"),
    ]  # fmt: skip
    assert [o["client_order_id"] for o in document(home, "orders", "--status", "open")] == ["ar-IBM"]  # type: ignore[attr-defined]
    assert [o["client_order_id"] for o in document(home, "orders", "--symbol", "aapl")] == ["ar-AAPL"]  # type: ignore[attr-defined]
    assert document(home, "orders", "--since", "2012-01-04") == []
    assert "2012-01-03T12:00:00.000-05:00\tAAPL\tbuy\t3\t3\tfilled\t2012-01-03" in run(home, "orders").stdout


def test_fills_and_positions_are_exact(home: Path) -> None:
    (fill,) = document(home, "fills")  # type: ignore[misc]
    (position,) = document(home, "positions")  # type: ignore[misc]

    assert (fill["price_usd"], fill["quantity"], fill["at"]) == ("9.125", "3", "2012-01-03T12:00:00.000-05:00")
    assert (position["symbol"], position["quantity"], position["cost_usd"]) == ("AAPL", "3", "27.375")


def test_status_says_what_runs_and_what_is_held(home: Path) -> None:
    status = document(home, "status")
    assert isinstance(status, dict)

    assert (status["running"], status["pid"]) == (False, None)
    assert (status["ledger"]["cash_usd"], status["ledger"]["open_orders"]) == ("972.625", 1)
    with single_instance(home / "dev_integration", "run-trader"):
        assert f"running, process {os.getpid()}" in run(home, "status").stdout


def test_status_shows_the_jobs_that_failed(home: Path) -> None:
    assert document(home, "status")["failed_jobs"] == []  # type: ignore[index]
    store = Store.open(home / "dev_integration" / "ledger.db", run_id="t-2", now_ns=NOON_NS, live_start_ns=0)
    store.record_session_job("2012-01-03", "pre_market", "reconcile", ok=False, detail="no answer", now_ns=NOON_NS)
    store.close()

    assert document(home, "status")["failed_jobs"] == [  # type: ignore[index]
        {
            "session_date": "2012-01-03", "phase": "pre_market", "job": "reconcile", "detail": "no answer",
            "at": "2012-01-03T12:00:00.000-05:00",
        }
    ]  # fmt: skip
    assert "2012-01-03\tpre_market\treconcile\tno answer" in run(home, "status").stdout


def test_status_before_the_first_run_is_an_answer_too(tmp_path: Path) -> None:
    assert "none yet" in run(tmp_path, "status").stdout


@pytest.fixture
def set_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets [database] url by its variable; a configuration is read once per process otherwise."""

    def set_to(url: str) -> None:
        monkeypatch.setenv("ALGO_ROYALE__DATABASE__URL", url)
        _loaded.cache_clear()

    yield set_to
    _loaded.cache_clear()


def test_every_command_does_the_same_on_a_server(home: Path, set_url: Callable[[str], None]) -> None:
    """The ledger of the file, copied to PostgreSQL: the same rows, and nowhere the password of its address."""
    commands = ("orders", "fills", "positions", "equity", "differences")
    of_file = {command: run(home, "--json", command).stdout for command in commands}
    url = new_schema()
    set_url(url.text)
    paper, shown = ("--env", "prod_paper"), []

    def on_server(*args: str, given: str | None = None) -> Result:
        result = run(home, *paper, *args, given=given)
        shown.append(result.output + result.stderr)
        return result

    where = f"postgresql://trader@{server().folder / 's'}/ledgers"
    assert on_server("orders").stderr == f"error: there is no ledger at {where}; `run-trader` makes one\n"
    assert "none yet" in on_server("status").stdout
    assert on_server("db", "status").stderr == f"error: there is no ledger at {where}\n"
    assert on_server("db", "migrate").stdout.startswith("applied 1: the ledger's tables, append-only\napplied 2: ")
    assert on_server("db", "migrate").stdout == f"{where} is up to date\n"
    copy_ledger(home / "dev_integration" / "ledger.db", url)

    assert {command: on_server("--json", command).stdout for command in commands} == of_file
    assert "AAPL" in of_file["fills"]
    state = on_server("db", "status")
    assert (state.exit_code, state.stdout.splitlines()[-1]) == (0, "everything adds up")
    store = Store.open(url, run_id="trader-2", now_ns=NOON_NS, live_start_ns=0)
    store.set_state(TradingState.HALTED, "a stray position", by="ledger", now_ns=NOON_NS)
    for words, given in (
        ("resume --reason x", None),
        ("db migrate", None),
        ("db drop", "ledgers\n"),
    ):  # as from another machine
        assert "another process writes" in on_server(*words.split(), given=given).stderr
    store.close()
    assert on_server("resume", "--reason", "sold it", "--by", "ann").stdout.startswith(
        "prod_paper is trading: sold it (ann)"
    )
    assert on_server("config", "show", "database").stdout == 'database.url = "**********"\n'

    wrong = on_server("db", "drop", given="prod_paper/ledger\n")
    assert "the database's name is 'ledgers', not 'prod_paper/ledger'; nothing was deleted" in wrong.stderr
    assert on_server("db", "drop", given="ledgers\n").exit_code == 0
    assert "there is no ledger" in on_server("db", "status").stderr
    assert [text for text in shown if PASSWORD in text] == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"mysql://u:{PASSWORD}@h/x", "database] url is not of the form postgresql://"),
        (f"postgresql://u:{PASSWORD}@h:{PASSWORD}/x", "database] url is not of the form postgresql://"),
        (f"postgresql://u:{PASSWORD}@127.0.0.1:1/x", "the ledger at postgresql://u@127.0.0.1:1/x cannot be opened: "),
        (f"postgresql://u:{PASSWORD}@/x?host=/nowhere&password={PASSWORD}", "the ledger at postgresql://u@/nowhere/x cannot"),
        (f"postgresql://u@h/x?{PASSWORD}=1&password={PASSWORD}", "the ledger at postgresql://u@h/x cannot be opened"),
        (f'["postgresql://u:{PASSWORD}@h/x"]', "ALGO_ROYALE__DATABASE__URL: database.url: "),
    ],
)  # fmt: skip
def test_a_bad_address_is_one_line_without_its_password(
    tmp_path: Path, set_url: Callable[[str], None], url: str, said: str
) -> None:
    set_url(url)
    result = run(tmp_path, "--env", "prod_paper", "orders")

    assert result.exit_code in (1, 5) and said in result.stderr
    assert len(result.stderr.splitlines()) == 1 and PASSWORD not in result.stderr


def test_no_traceback_and_no_repr_has_the_password() -> None:
    """Here the driver's own words have it."""
    url = PostgresUrl(f"postgresql://u@h/x?{PASSWORD}=1&password={PASSWORD}")
    with pytest.raises(LedgerError) as failed:
        open_database(url)
    assert "invalid URI query parameter" in str(failed.value)
    assert PASSWORD not in "".join(traceback.format_exception(failed.value))
    assert PASSWORD not in f"{url!r} {url} {[url]}"


def test_development_keeps_its_ledgers_in_files(tmp_path: Path, set_url: Callable[[str], None]) -> None:
    set_url(f"postgresql://u:{PASSWORD}@h/x")

    assert "database.url is for prod_paper and prod_live" in (said := run(tmp_path, "orders").stderr)
    assert PASSWORD not in said


def copy_ledger(path: Path, place: PostgresUrl) -> None:
    """Row by row, as they are."""
    source, target = open_database(path, read_only=True), open_database(place)
    with transaction(target):
        for table in TABLES:
            for row in execute(source, f"SELECT * FROM {table} ORDER BY seq"):
                execute(target, f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
            execute(target, f"SELECT setval(pg_get_serial_sequence('{table}', 'seq'), 1000)")
    source.close(), target.close()


def test_a_pid_without_the_lock_is_not_believed(tmp_path: Path) -> None:
    """The trader died, and its number was given to another process: stop must not kill that one."""
    lock, locks = tmp_path / "run-trader.lock", tmp_path / "locks"
    lock.touch()
    inode = lock.stat().st_ino
    line = "1: FLOCK  ADVISORY  WRITE {} 08:10:{} 0 EOF\n"

    assert is_locked(lock, locks=tmp_path / "absent") is None  # not Linux
    locks.write_text("")
    assert is_locked(lock, locks=locks) is None
    locks.write_text(line.format(7, inode + 1))
    assert is_locked(lock, locks=locks) is False
    locks.write_text(line.format(7, inode + 1) + line.format(8, inode))
    assert is_locked(lock, locks=locks) is True


TRADER = """
import signal, sys, threading
from pathlib import Path
from algo_royale.app.cli.trader import set_ledger_aside
from algo_royale.app.lock import single_instance
asked = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: asked.set() if sys.argv[2] == "obeys" else None)
with single_instance(Path(sys.argv[1]), "run-trader"):
    print("up", flush=True)
    asked.wait(60)
"""


@pytest.mark.parametrize("manner", ["obeys", "refuses"])
def test_stop_asks_the_trader_and_waits_for_its_end(home: Path, manner: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", TRADER, str(home / "dev_integration"), manner], stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()

        result = run(home, "stop", "--timeout", "1" if manner == "refuses" else "20")

        if manner == "obeys":
            assert (result.exit_code, child.wait(10)) == (0, 0)
            assert f"(process {child.pid}) stopped after" in result.stdout
        else:
            assert result.exit_code == 1
            assert "still runs after 1 s" in result.stderr
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


@pytest.mark.parametrize("command", ["orders", "fills", "positions"])
def test_without_a_ledger_one_line_says_what_makes_one(tmp_path: Path, command: str) -> None:
    result = run(tmp_path, command)

    assert result.exit_code == 1
    assert (
        result.stderr == f"error: there is no ledger at {tmp_path}/dev_integration/ledger.db; `run-trader` makes one\n"
    )


def test_stop_without_a_trader_says_so(home: Path) -> None:
    result = run(home, "stop")
    assert (result.exit_code, result.stderr) == (1, f"error: no trader is running in {home}/dev_integration\n")


def test_equity_and_differences_are_lists_of_what_was_committed(home: Path) -> None:
    assert run(home, "equity").stderr == "no session has closed yet\n"
    store = Store.open(home / "dev_integration" / "ledger.db", run_id="t-2", now_ns=NOON_NS, live_start_ns=0)
    for day, price in (("2012-01-03", "10"), ("2012-01-04", "8"), ("2012-01-09", "9")):
        store.record_session_close(day, {"AAPL": D(price)}, now_ns=NOON_NS)
    store.close()

    assert [(row["equity_usd"], row["unrealised_usd"]) for row in document(home, "equity")] == [  # type: ignore[attr-defined]
        ("1002.625", "2.625"), ("996.625", "-3.375"), (None, None), (None, None), ("999.625", "-0.375"),
    ]  # fmt: skip
    thursday, friday, monday = document(home, "equity", "--since", "2012-01-05")  # type: ignore[misc]  # the 7th is a Saturday
    assert [row["session_date"] for row in (thursday, friday)] == ["2012-01-05", "2012-01-06"]
    assert (friday["seen"], monday["seen"], monday["session_date"]) == (False, True, "2012-01-09")
    assert "2012-01-06\t-\t-\t-" in run(home, "equity").stdout
    assert "2012-01-04\t996.62\t972.62\t0.00\t24.00\t0.00\t-3.38" in run(home, "equity", "--since", "2012-01-04").stdout
    (adopted,) = document(home, "differences")  # type: ignore[misc]
    assert (adopted["subject"], adopted["ours"], adopted["resolution"]) == ("account", "unknown", "adopted")
    assert "\tstart\taccount\tunknown\tcash 1000, positions {}\tadopted\n" in run(home, "differences").stdout


# --- db ---


def test_db_status_finds_a_ledger_that_does_not_add_up(home: Path) -> None:
    good = document(home, "db", "status")
    assert good["problems"] == [] and good["rows"]["orders"] == 2  # type: ignore[index]
    database = open_database(home / "dev_integration" / "ledger.db")
    execute(database, "DROP TRIGGER cash_entry_no_update")
    execute(database, "UPDATE cash_entry SET amount_usd = '-27' WHERE kind = 'fill'")
    database.close()

    result = run(home, "db", "status")

    assert result.exit_code == 1
    assert "problem: cash entry 2 shows a balance of 972.625; the entries up to it sum to 973" in result.stdout


def test_db_migrate_says_what_it_did(tmp_path: Path) -> None:
    assert run(tmp_path, "db", "migrate").stdout.startswith("applied 1: the ledger's tables, append-only\napplied 2: ")
    assert "is up to date" in run(tmp_path, "db", "migrate").stdout


def test_db_drop_wants_the_name_of_the_database(home: Path) -> None:
    path = home / "dev_integration" / "ledger.db"

    wrong = run(home, "db", "drop", given="ledger\n")
    assert wrong.exit_code == 1
    assert "the database's name is 'dev_integration/ledger', not 'ledger'; nothing was deleted" in wrong.stderr
    assert path.is_file()
    for suffix in ("-wal", "-shm"):  # as of a trader that was killed
        path.with_name(path.name + suffix).touch()

    assert run(home, "db", "drop", given="dev_integration/ledger\n").exit_code == 0
    assert list(path.parent.glob("ledger*")) == []


def test_resume_lifts_a_halt_and_keeps_the_reason(home: Path) -> None:
    path = home / "dev_integration" / "ledger.db"
    assert run(home, "resume", "--reason", "x").stderr == "error: trading is neither halted nor reducing\n"
    store = Store.open(path, run_id="trader-2", now_ns=NOON_NS, live_start_ns=0)
    store.set_state(TradingState.HALTED, "a stray position", by="ledger", now_ns=NOON_NS)
    store.close()
    halted = document(home, "status")["ledger"]  # type: ignore[index]
    assert (halted["state"], halted["state_reason"], halted["state_set_by"]) == ("halted", "a stray position", "ledger")
    assert halted["state_since"] == "2012-01-03T12:00:00.000-05:00"

    said = run(home, "resume", "--reason", "sold it by hand", "--by", "ann").stdout
    assert said.startswith("dev_integration is trading: sold it by hand (ann)")

    assert document(home, "status")["ledger"]["state"] == "trading"  # type: ignore[index]
    with Reader(path) as reader:
        rows = [(row["state"], row["reason"], row["set_by"]) for row in reader.trading_states()]
    assert rows == [("halted", "a stray position", "ledger"), ("trading", "sold it by hand", "ann")]


@pytest.mark.parametrize("accepts", [True, False])
def test_only_the_option_takes_the_brokers_side_whatever_somebody_types(home: Path, accepts: bool) -> None:
    path = home / "dev_integration" / "ledger.db"
    store = Store.open(path, run_id="trader-2", now_ns=NOON_NS, live_start_ns=0)
    store.set_state(TradingState.HALTED, "a stray position", by="ledger", now_ns=NOON_NS)
    store.close()

    flag = ["--accept-broker"] if accepts else []
    said = run(home, "resume", *flag, "--reason", "accept broker: theirs is right", "--by", "ann").stdout

    prefix = "accept broker: " if accepts else ""
    assert said.startswith(f"dev_integration is trading: {prefix}theirs is right (ann)")
    store = Store.open(path, run_id="trader-3", now_ns=NOON_NS, live_start_ns=0)
    assert store.broker_accepted() == (f"{prefix}theirs is right (ann)" if accepts else "")
    store.close()


def test_a_reason_that_is_no_text_is_kept_in_one_that_is(home: Path) -> None:
    """What a terminal of another encoding sends, or somebody who wants to move the cursor."""
    said = run(home, "halt", "--reason", os.fsdecode(b"sp\xe4ter\x1b[2J"), "--by", os.fsdecode(b"j\xf6rg"))
    assert (said.exit_code, said.stdout.split(" (no")[0]) == (
        0, "dev_integration is halted: sp\\udce4ter\\x1b[2J (j\\udcf6rg)",
    )  # fmt: skip
    assert document(home, "status")["ledger"]["state_set_by"] == "j\\udcf6rg"  # type: ignore[index]


def test_resume_knows_who_is_at_the_keyboard(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reducing trader is resumed as a halted one is."""
    monkeypatch.setenv("LOGNAME", "ben")
    store = Store.open(home / "dev_integration" / "ledger.db", run_id="t-2", now_ns=NOON_NS, live_start_ns=0)
    store.set_state(TradingState.REDUCING, "the day's loss", by="portfolio", now_ns=NOON_NS)
    store.close()

    assert run(home, "resume", "--reason", "fine").stdout.startswith("dev_integration is trading: fine (ben)")


@pytest.mark.parametrize("command", [["migrate"], ["drop"]])
def test_a_ledger_in_use_is_left_alone(home: Path, command: list[str]) -> None:
    with single_instance(home / "dev_integration", "run-trader"):
        result = run(home, "db", *command)

    assert result.exit_code == 1
    assert "a trader is running" in result.stderr


def test_a_new_twin_puts_the_ledger_of_an_older_program_aside(tmp_path: Path) -> None:
    database = open_database(tmp_path / "ledger.db")
    migrate(database, now_ns=1, migrations=MIGRATIONS[:1])
    execute(database, "INSERT INTO run (run_id, started_ns) VALUES ('long-ago', 1)")
    execute(
        database,
        "INSERT INTO meta (run_id, ledger_id, created_ns, live_start_ns) VALUES ('long-ago', 'old', 1, 1)",
    )
    database.close()
    set_ledger_aside(tmp_path, Settings(verbosity=-1))

    assert not (tmp_path / "ledger.db").exists()
    with Reader(tmp_path / "ledgers" / "long-ago.db") as reader:
        assert reader.summary().ledger_id == "old"


@pytest.mark.parametrize(
    ("command", "change"),
    [
        (["db", "migrate"], "db.admin.migrate_file"), (["db", "drop", "--name", "dev_integration/ledger"], "db.admin.drop"),
        (["resume", "--reason", "x"], "db.store.Store.move"),
    ],
)  # fmt: skip
def test_no_trader_starts_while_a_ledger_is_changed(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], change: str
) -> None:
    store = Store.open(home / "dev_integration" / "ledger.db", run_id="t-2", now_ns=NOON_NS, live_start_ns=0)
    store.set_state(TradingState.HALTED, "so", by="ann", now_ns=NOON_NS)
    store.close()
    kept_out = []

    def try_to_start(*_: object, **__: object) -> tuple[()]:
        with pytest.raises(AlreadyRunning), single_instance(home / "dev_integration", "run-trader"):
            pass
        kept_out.append(change)
        return ()

    monkeypatch.setattr(change, try_to_start)
    run(home, *command)

    assert kept_out == [change]


@pytest.mark.parametrize("status", [status.value for status in OrderStatus])
def test_orders_may_be_asked_for_by_any_status(home: Path, status: str) -> None:
    assert run(home, "orders", "--status", status).exit_code == 0
