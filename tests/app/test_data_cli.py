"""`data list|verify|import` as they are typed: what they print, what they write, and that nothing is written by halves."""

import json
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from algo_royale.app.cli import root
from algo_royale.app.cli.data_writing import sole_writer
from algo_royale.data.catalog import bundled, open_catalog, read_columns, write_parquet
from algo_royale.data.quality import ADVICE
from algo_royale.errors import BadInput
from algo_royale.market import Bars, Timeframe
from algo_royale.sessions import calendar, new_york_ns
from conftest import ROOT, shared
from markets import minutes

DAY = Timeframe.DAY_1
HEADER = "Date,Open,High,Low,Close,Adj Close,Volume"
ROWS = ["2013-01-02,10,11,9,10.5,5,100", "2013-01-03,10.5,12,10,11,5,1200", "2013-01-04,11,12,10,11.5,6,900"]


def run(*args: object) -> Result:
    return CliRunner().invoke(root, ["data", *map(str, args)])


def bars(path: Path, rows: list[str], header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def closes(folder: Path, symbol: str = "X") -> list[float]:
    return [float(close) for close in open_catalog(folder).bars(symbol, DAY).close]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path there."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- list and verify -----------------------------------------------------------------------------------------------------


def test_list_shows_the_bundled_symbols() -> None:
    lines = [line.split("\t") for line in run("list").stdout.splitlines()]

    assert lines[0] == ["symbol", "bars", "first", "last", "count", "missing", "actions", "fingerprint"]
    assert lines[1][:7] == ["AAPL", "1Day", "2000-03-01", "2013-03-01", "3270", "0", "5"]
    assert [line[0] for line in lines[1:]] == list(bundled().symbols())
    document = json.loads(run("list", "--json").stdout)
    assert document["symbols"][0]["fingerprint"] == bundled().fingerprint(["AAPL"], DAY)


def test_list_counts_missing_sessions_and_names_what_it_cannot_read(tmp_path: Path) -> None:
    bars(
        tmp_path / "X.csv",
        [ROWS[0].replace(",5,", ",", 1), ROWS[2].replace(",6,", ",", 1)],
        "timestamp,open,high,low,close,volume",
    )
    bars(tmp_path / "BAD.csv", ["2013-01-02,1,1,1,1,-1"], "timestamp,open,high,low,close,volume")
    result = run("list", "--data", tmp_path)

    assert result.exit_code == 1
    assert result.stdout.splitlines()[1].split("\t")[:7] == ["X", "1Day", "2013-01-02", "2013-01-04", "2", "1", "0"]
    assert (
        result.stderr
        == "error: BAD.csv: BAD 1Day row 0 (2013-01-02T05:00:00Z): volume -1.0 is negative or not finite\n"
    )


def test_verify_warns_of_the_one_thing_in_the_bundled_file() -> None:
    result = run("verify")

    assert result.exit_code == 0
    assert "AAPL  3270 bars of 1Day, 2000-03-01 to 2013-03-01: 0 errors, 1 warning\n" in result.stdout
    assert "  warning  2000-09-29  move: close 53.5 to 25.75, -51.9% in a session\n" in result.stdout
    assert "IBM  3270 bars of 1Day, 2000-03-01 to 2013-03-01: nothing found\n" in result.stdout
    assert "  move: real if the news" in result.stdout.partition("what to do")[2]


def test_verify_fails_on_errors_and_says_each_with_date_and_numbers(tmp_path: Path) -> None:
    header = "timestamp,open,high,low,close,volume"
    bars(
        tmp_path / "X.csv",
        ["2013-01-02,10,11,9,10.5,1", "2013-01-03,10,9,8,10,1", "2013-01-03,10,11,9,10,1", "2013-01-05,1,1,1,1,1"],
        header,
    )
    (tmp_path / "Y.parquet").write_bytes(b"nothing")
    bars(tmp_path / "Z.csv", ["2013-01-02,10,11,9,10.5"], header.removesuffix(",volume"))
    result = run("verify", "--data", tmp_path, "--json")
    symbols = {report["symbol"]: report for report in json.loads(result.stdout)["symbols"]}

    assert result.exit_code == 1
    assert [(f["kind"], f["first"], f["what"]) for f in symbols["X"]["findings"]] == [
        ("duplicate", "2013-01-03", "row 2: the same time as an earlier row"),
        ("ohlc", "2013-01-03", "row 1: high 9 is below 10"),
        ("timestamp", "2013-01-05", "row 3: no 1Day bar of a session begins then"),
    ]
    assert all(f["advice"] for report in symbols.values() for f in report["findings"])
    assert [f["kind"] for f in symbols["Y"]["findings"]] == ["unreadable"]
    assert symbols["Z"]["findings"][0]["what"] == "Z.csv: no column volume"
    assert run("verify", "--data", tmp_path).exit_code == 1
    assert run("verify", "--data", tmp_path, "W").stderr.startswith("error: unknown symbol 'W'")


def test_verify_prints_ten_of_a_kind(tmp_path: Path) -> None:
    rows = [f"{row['timestamp']},1,1,1,1,0" for row in pq.read_table(_fifteen(tmp_path)).to_pylist()[::2]]
    bars(tmp_path / "X.csv", rows, "timestamp,open,high,low,close,volume")
    (tmp_path / "X.parquet").unlink()
    text = run("verify", "--data", tmp_path).stdout

    assert text.count("missing: no bar in 1 session") == 10
    assert "  2 more of missing; --json has all" in text


def _fifteen(folder: Path) -> Path:
    """The sessions of a month, as dates."""
    from algo_royale.sessions import calendar

    days = [s.date for s in calendar().sessions(date(2013, 1, 2), date(2013, 2, 6))][:25]
    pq.write_table(pyarrow.table({"timestamp": days}), folder / "X.parquet")
    return folder / "X.parquet"


# --- import --------------------------------------------------------------------------------------------------------------


def test_import_shows_what_it_takes_for_what_and_writes_bars_that_can_be_used(tmp_path: Path) -> None:
    result = run("import", bars(tmp_path / "X.csv", ROWS), "--to", tmp_path / "bars")

    assert (result.exit_code, closes(tmp_path / "bars")) == (0, [10.5, 11.0, 11.5])
    assert "1Day bars of X: timestamp=Date, open=Open, high=High, low=Low, close=Close, volume=Volume" in result.stderr
    assert "ignored Adj Close: prices are kept as traded" in result.stderr
    assert result.stdout.splitlines()[1].split("\t") == [
        "X",
        "1Day",
        "2013-01-02",
        "2013-01-04",
        "3",
        "3",
        "0",
        "0",
        "0",
    ]
    assert list(contents(tmp_path / "bars")) == ["1Day/X.parquet"]


def test_importing_again_changes_nothing_and_more_is_appended(tmp_path: Path) -> None:
    run("import", bars(tmp_path / "X.csv", ROWS[:2]), "--to", tmp_path / "bars")
    first = contents(tmp_path / "bars")
    again = json.loads(run("import", tmp_path / "X.csv", "--to", tmp_path / "bars", "--json").stdout)
    assert contents(tmp_path / "bars") == first
    assert [(r["count"], r["added"], r["same"]) for r in again["symbols"]] == [(2, 0, 2)]

    more = json.loads(run("import", bars(tmp_path / "X.csv", ROWS), "--to", tmp_path / "bars", "--json").stdout)
    assert [(r["count"], r["added"], r["same"]) for r in more["symbols"]] == [(3, 1, 2)]
    assert closes(tmp_path / "bars") == [10.5, 11.0, 11.5]


def test_a_contradiction_writes_nothing_until_it_may_replace(tmp_path: Path) -> None:
    run("import", bars(tmp_path / "X.csv", ROWS), "--to", tmp_path / "bars")
    before = contents(tmp_path / "bars")
    other = bars(tmp_path / "X.csv", [ROWS[1].replace(",11,", ",11.25,")])
    refused = run("import", other, "--to", tmp_path / "bars")

    assert refused.exit_code == 1
    assert (
        "error: X 2013-01-03: close 11.25 contradicts 11, which is there already (1 such); --replace takes the new one\n"
        in refused.stderr
    )
    assert contents(tmp_path / "bars") == before
    assert run("import", other, "--to", tmp_path / "bars", "--replace").exit_code == 0
    assert closes(tmp_path / "bars") == [10.5, 11.25, 11.5]


def test_one_bad_row_in_the_last_file_writes_nothing(tmp_path: Path) -> None:
    good, bad = bars(tmp_path / "X.csv", ROWS), bars(tmp_path / "Y.csv", [ROWS[0], "2013-01-03,10,9,9,10,1,1"])
    result = run("import", good, bad, "--to", tmp_path / "bars")

    assert (result.exit_code, result.stdout, contents(tmp_path / "bars")) == (1, "", {})
    assert result.stderr.endswith("error: Y.csv line 3: 2013-01-03: high 9 is below 10\n")


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = run("import", bars(tmp_path / "X.csv", ROWS), "--to", tmp_path / "bars", "--dry-run")

    assert (result.exit_code, contents(tmp_path / "bars")) == (0, {})
    assert "dry run: nothing is written" in result.stderr


def test_several_symbols_in_one_file_and_columns_by_name(tmp_path: Path) -> None:
    rows = [f"{symbol},{row}" for row in ROWS for symbol in ("X", "Y.B")]
    path = bars(tmp_path / "all.csv", rows, "Ticker,When,Open,High,Low,Last,Adj,Volume")
    wrong = run("import", path, "--to", tmp_path / "bars")
    assert (wrong.exit_code, contents(tmp_path / "bars")) == (1, {})
    assert "no column for timestamp among Ticker, When" in wrong.stderr

    result = run("import", path, "--to", tmp_path / "bars", "--column", "timestamp=When")
    assert result.exit_code == 0
    assert open_catalog(tmp_path / "bars").symbols() == ("X", "Y.B")
    assert closes(tmp_path / "bars", "Y.B") == [10.5, 11.0, 11.5]


def test_actions_come_with_the_bars_or_later(tmp_path: Path) -> None:
    actions = tmp_path / "actions.csv"
    actions.write_text(
        "symbol,ex_date,split_new,split_old,cash_amount\nX,2013-01-03,2,1,\nX,2013-01-04,,,0.25\nW,2013-01-04,,,1\n"
    )
    run("import", bars(tmp_path / "X.csv", ROWS), "--to", tmp_path / "together", "--actions", actions)
    run("import", tmp_path / "X.csv", "--to", tmp_path / "later")
    assert open_catalog(tmp_path / "later").actions("X") == ()
    result = run("import", "--to", tmp_path / "later", "--actions", actions)

    assert result.exit_code == 0
    assert contents(tmp_path / "together") == contents(tmp_path / "later")
    assert [(a.ratio, a.cash_usd) for a in open_catalog(tmp_path / "later").actions("X")] == [(2.0, 0.0), (1.0, 0.25)]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["X.csv", "--column", "close"], "--column close: say NAME=SOURCE"),
        (["X.csv", "--column", "clsoe=Close"], "unknown column 'clsoe'; did you mean 'close'?"),
        (["X.csv", "--column", "close=Clos"], "X.csv: no column 'Clos' for close; did you mean 'Close'?"),
        (["X.csv", "--symbol", "../x"], "--symbol ../x: must be a ticker"),
        (["X.csv", "--timezone", "Mars/Olympus"], "--timezone Mars/Olympus: no such time zone"),
        (["12.csv"], "12.csv: which symbol? neither a column nor the file's name says; give --symbol"),
        ([], "nothing to import"),
        (["--changes", "X.csv"], "X.csv: needs the columns old_symbol, new_symbol and date, not date, open"),
        (["--changes", "same.csv"], "same.csv line 2: X became X on 2013-01-03: not two names and a date"),
        (["--changes", "two.csv"], "two.csv line 3: on 2013-01-03 both X and Y became Z"),
        (["X.csv", "--actions", "X.csv"], "X.csv: no column for symbol"),
        (["--actions", "actions.csv"], "actions.csv: none of its symbols is in"),
        (["tickers.csv"], "tickers.csv line 2: '../evil' is not a ticker"),
        (["X.csv", "--timeframe", "5Min"], "X.parquet: X: no 5Min bar lies in regular hours"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line_and_write_nothing(
    tmp_path: Path, args: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("X.csv", "12.csv"):
        bars(tmp_path / name, ROWS)
    bars(tmp_path / "tickers.csv", [f"../evil,{ROWS[0]}"], f"symbol,{HEADER}")
    (tmp_path / "actions.csv").write_text("symbol,ex_date,cash_amount\nX,2013-01-03,1\n")
    (tmp_path / "same.csv").write_text("old_symbol,new_symbol,date\nX,X,2013-01-03\n")
    (tmp_path / "two.csv").write_text("old_symbol,new_symbol,date\nX,Z,2013-01-03\nY,Z,2013-01-03\n")
    result = run("import", *args, "--to", tmp_path / "bars")

    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert says in result.stderr.splitlines()[-1]
    assert contents(tmp_path / "bars") == {}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("import", bars(tmp_path / "X.csv", ROWS), "--to", tmp_path / "file" / "bars")

    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: cannot write to ")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The disk fills up while the new file is written: the old one stands, and nothing lies beside it."""
    run("import", bars(tmp_path / "X.csv", ROWS[:2]), "--to", tmp_path / "bars")
    before = contents(tmp_path / "bars")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"os.{step}", full)
    result = run("import", bars(tmp_path / "X.csv", ROWS), "--to", tmp_path / "bars")
    assert (result.exit_code, contents(tmp_path / "bars")) == (1, before)
    assert "No space left on device" in result.stderr


KILLER = """
import os, signal, sys
from algo_royale.app.cli import root
step, left = sys.argv[1], [int(sys.argv[2])]
real = getattr(os, step)
def deadly(*args):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
setattr(os, step, deadly)
root.main(sys.argv[3:], standalone_mode=True)
"""


@pytest.mark.parametrize(("step", "after"), [("fsync", 0), ("replace", 1), ("fsync", 2)])
def test_a_kill_in_the_middle_leaves_whole_files_and_the_same_command_ends_it(
    tmp_path: Path, step: str, after: int
) -> None:
    """kill -9 before the n-th file is in place: each file is the old or the new one, nobody is locked out, and nothing is lost."""
    files = [bars(tmp_path / f"{symbol}.csv", ROWS[:2]) for symbol in "XYZ"]
    run("import", *files, "--to", tmp_path / "bars")
    before = contents(tmp_path / "bars")
    for path in files:
        bars(path, ROWS)
    run("import", *files, "--to", tmp_path / "wanted")
    wanted = contents(tmp_path / "wanted")
    words = [step, str(after), "data", "import", *map(str, files), "--to", str(tmp_path / "bars")]
    killed = subprocess.run([sys.executable, "-c", KILLER, *words], capture_output=True, check=False)
    assert killed.returncode == -9

    left = {name: text for name, text in contents(tmp_path / "bars").items() if not name.endswith(".tmp")}
    assert [text == wanted[name] for name, text in sorted(left.items())] == [i < after for i in range(3)]
    assert all(text in (before[name], wanted[name]) for name, text in left.items())
    assert open_catalog(tmp_path / "bars").symbols() == ("X", "Y", "Z")
    assert run("import", *files, "--to", tmp_path / "bars").exit_code == 0
    assert contents(tmp_path / "bars") == wanted


def documented(language: str) -> list[str]:
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs/data.md").read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_what_the_guide_types_and_quotes_is_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in documented("sh"):
        assert CliRunner().invoke(root, line.split()[1:]).exit_code == 0, line
    bars(tmp_path / "AAPL.csv", ROWS)
    bars(tmp_path / "IBM.csv", ROWS)
    (tmp_path / "actions.csv").write_text("symbol,ex_date,cash_amount\nAAPL,2013-01-03,1\n")
    commands = [line for line in documented("text") if line.startswith("algo-royale")]
    assert len(commands) == 2
    for line in commands:
        assert CliRunner().invoke(root, line.split()[1:]).exit_code == 0, line
    bars(tmp_path / "AAPL.csv", [ROWS[0], "2013-01-03,10,9,9,10,1,1", "2013-01-04,10,9,9,10,1,1"])
    refused = [run("import", "AAPL.csv", "--to", "bars").stderr.splitlines()[-1]]
    bars(tmp_path / "AAPL.csv", [ROWS[1].replace(",11,", ",11.25,")])
    refused.append(run("import", "AAPL.csv", "--to", "bars").stderr.splitlines()[-1])
    assert refused == [line for line in documented("text") if line.startswith("error: ")]


def test_the_guide_has_every_kind_of_finding() -> None:
    table = [
        line for line in (ROOT / "docs/data.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    named = {name for line in table for name in re.findall(r"`([^`]+)`", line.split("|")[1])}

    assert named == set(ADVICE) - {"unreadable"}


MINUTES = [f"2013-01-02T14:{m}:00Z,1,1,1,1,1" for m in (30, 31)]
PLAIN = "timestamp,open,high,low,close,volume"


def test_bars_of_several_lengths_lie_side_by_side(tmp_path: Path) -> None:
    """Days and minutes of one symbol in one folder: each is listed, verified and read for itself."""
    run("import", bars(tmp_path / "X.csv", ROWS), "--to", tmp_path / "bars")
    assert run("import", bars(tmp_path / "X.csv", MINUTES, PLAIN), "--to", tmp_path / "bars").exit_code == 0

    assert sorted(contents(tmp_path / "bars")) == ["1Day/X.parquet", "1Min/X.parquet"]
    catalog = open_catalog(tmp_path / "bars")
    assert catalog.timeframes("X") == (Timeframe.MIN_1, DAY)
    assert [len(catalog.bars("X", t)) for t in catalog.timeframes("X")] == [2, 3]
    with pytest.raises(BadInput, match="no 5Min bars of X in .*, only 1Min, 1Day; `data resample` makes longer bars"):
        catalog.bars("X", Timeframe.MIN_5)
    listed = [line.split("\t")[:2] for line in run("list", "--data", tmp_path / "bars").stdout.splitlines()[1:]]
    assert listed == [["X", "1Min"], ["X", "1Day"]]
    report = json.loads(run("verify", "X", "--data", tmp_path / "bars", "--json").stdout)["symbols"]
    assert [(r["bars"], r["count"]) for r in report] == [("1Min", 2), ("1Day", 3)]
    one = json.loads(run("list", "--data", tmp_path / "bars", "--timeframe", "1Day", "--json").stdout)["symbols"]
    assert [row["bars"] for row in one] == ["1Day"]


def test_a_flat_folder_is_joined_where_it_is(tmp_path: Path) -> None:
    """A folder of <SYMBOL>.parquet stays one; bars of another length get the folder of their length."""
    write_parquet(tmp_path / "bars" / "X.parquet", dict(bundled().columns("FB")[1]))
    rows = ["2013-03-04,27,28,26,27.5,5,1000"]
    run("import", bars(tmp_path / "X.csv", rows), "--to", tmp_path / "bars")
    run("import", bars(tmp_path / "X.csv", MINUTES, PLAIN), "--to", tmp_path / "bars")

    assert sorted(contents(tmp_path / "bars")) == ["1Min/X.parquet", "X.parquet"]
    assert len(open_catalog(tmp_path / "bars").bars("X", DAY)) == 197


def test_two_writers_do_not_meet_in_one_folder(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "bars"):
        result = run("import", bars(tmp_path / "X.csv", ROWS), "--to", tmp_path / "bars")

    assert result.exit_code == 1
    assert "another process is writing to" in result.stderr
    assert run("import", tmp_path / "X.csv", "--to", tmp_path / "bars").exit_code == 0


def test_columns_of_true_and_false_come_along(tmp_path: Path) -> None:
    """Somebody's signal in a column of its own reaches the bars, also when more of it is appended; without it, nothing is."""
    header = f"{HEADER},My signal,Note"
    rows = [f"{row},{word},x" for row, word in zip(ROWS, ("true", "false", "true"), strict=True)]
    result = run("import", bars(tmp_path / "X.csv", rows[:2], header), "--to", tmp_path / "bars")
    assert "My signal (true or false)" in result.stderr
    assert "ignored Note" in result.stderr
    run("import", bars(tmp_path / "X.csv", rows, header), "--to", tmp_path / "bars")
    catalog = open_catalog(tmp_path / "bars")
    assert {name: column.tolist() for name, column in catalog.bars("X", DAY).extra.items()} == {
        "My signal": [True, False, True]
    }
    assert catalog.adjusted("X", DAY).extra["My signal"].tolist() == [True, False, True]
    before = contents(tmp_path / "bars")

    without = run("import", bars(tmp_path / "X.csv", ["2013-01-07,11,12,10,11.5,6,900"]), "--to", tmp_path / "bars")
    assert without.stderr.endswith("error: X.parquet row 3: My signal is neither true nor false\n")
    gap = run("import", bars(tmp_path / "X.csv", [rows[0], f"{ROWS[1]},,x"], header), "--to", tmp_path / "bars")
    assert gap.stderr.endswith("error: X.csv line 3: My signal is neither true nor false\n")
    assert contents(tmp_path / "bars") == before


def test_a_share_that_changed_its_symbol_has_one_history(tmp_path: Path) -> None:
    """FB was called META from 2012-06-05 on, say: META opens with FB's bars before it, FB as it is."""
    source = dict(bundled().columns("FB")[1])
    day = new_york_ns(date(2012, 6, 5))
    for name, mine in (("FB", source["timestamp"] < day), ("META", source["timestamp"] >= day)):
        write_parquet(tmp_path / "1Day" / f"{name}.parquet", {n: column[mine] for n, column in source.items()})
    (tmp_path / "changes.csv").write_text("old_symbol,new_symbol,date\nFB,META,2012-06-05\n")
    result = run("import", "--to", tmp_path, "--changes", tmp_path / "changes.csv")
    assert "META was FB before 2012-06-05" in result.stderr
    (tmp_path / "changes.csv").unlink()

    catalog, whole = open_catalog(tmp_path), bundled().bars("FB", DAY)
    assert catalog.symbols() == ("FB", "META")
    assert catalog.bars("META", DAY).start_ns.tolist() == whole.start_ns.tolist()
    assert catalog.bars("META", DAY).close.tolist() == whole.close.tolist()
    assert len(catalog.bars("FB", DAY)) == int((source["timestamp"] < day).sum())
    (tmp_path / "1Day" / "META.parquet").unlink()
    assert len(open_catalog(tmp_path).bars("META", DAY)) == len(catalog.bars("FB", DAY))


def minute_folder(folder: Path, sessions: int = 3) -> Bars:
    """Minutes of X over Thanksgiving 2012, half day included, with a dividend on the last session."""
    days = calendar().sessions(date(2012, 11, 21), date(2012, 11, 30))[:sessions]
    made = minutes("X", 7, days)
    columns = {n: getattr(made, n) for n in ("open", "high", "low", "close", "volume", "vwap")}
    cash = np.where(made.start_ns == days[-1].open_ns, 0.25, 0.0)
    write_parquet(folder / "1Min" / "X.parquet", {"timestamp": made.start_ns, **columns, "ex_dividend": cash})
    return made


def test_longer_bars_are_made_beside_the_shorter_ones(tmp_path: Path) -> None:
    """All four lengths; the days are the sessions, the dividend comes along, and making them again changes nothing."""
    made = minute_folder(tmp_path)
    words = [word for name in ("5Min", "15Min", "1Hour", "1Day") for word in ("--to", name)]
    result = run("resample", "--data", tmp_path, *words)

    assert result.exit_code == 0
    rows = [line.split("\t") for line in result.stdout.splitlines()[1:]]
    assert [(row[1], row[4], row[-1]) for row in rows] == [
        ("5Min", "198", "1"), ("15Min", "66", "1"), ("1Hour", "18", "1"), ("1Day", "3", "1"),
    ]  # fmt: skip
    catalog = open_catalog(tmp_path)
    assert catalog.timeframes("X") == tuple(Timeframe)
    assert {float(catalog.bars("X", t).volume.sum()) for t in Timeframe} == {float(made.volume.sum())}
    before = contents(tmp_path)
    assert run("resample", "--data", tmp_path, *words).exit_code == 0
    assert contents(tmp_path) == before


def test_an_incomplete_last_bar_waits_for_the_rest_of_its_time(tmp_path: Path) -> None:
    made = minute_folder(tmp_path, sessions=1)
    path = tmp_path / "1Min" / "X.parquet"
    whole = dict(read_columns(path))
    write_parquet(path, {name: column[:100] for name, column in whole.items()})
    first = run("resample", "--data", tmp_path, "--to", "1Hour")
    assert "X: the last 1Hour bar is not complete and left out" in first.stderr
    assert len(open_catalog(tmp_path).bars("X", Timeframe.HOUR_1)) == 2
    write_parquet(path, whole)

    assert run("resample", "--data", tmp_path, "--to", "1Hour").exit_code == 0
    assert open_catalog(tmp_path).bars("X", Timeframe.HOUR_1).close[-1] == made.close[-1]


def test_made_bars_do_not_overrule_those_of_a_source(tmp_path: Path) -> None:
    """An official daily close differs from the last minute's; the one that is there stays until it may be replaced."""
    folder = tmp_path / "bars"
    made = minute_folder(folder)
    run("import", bars(tmp_path / "X.csv", ["2012-11-21,40,90,30,45,5,100"]), "--to", folder)
    before = contents(folder)
    refused = run("resample", "--data", folder, "--to", "1Day")

    assert "X 2012-11-21: open " in refused.stderr and "contradicts 40" in refused.stderr
    assert (refused.exit_code, contents(folder)) == (1, before)
    assert run("resample", "--data", folder, "--to", "1Day", "--replace").exit_code == 0
    assert open_catalog(folder).bars("X", DAY).open[0] == made.open[0]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--to", "1Day"], 1, "the bundled bars are daily and stay as they are"),
        (["--data", "bars", "--to", "2Day"], 2, "'2Day' is not one of"),
        (["--data", "bars", "--to", "1Min"], 2, "'1Min' is not one of"),
        (["--data", "bars"], 2, "Missing option '--to'"),
        (["--data", "bars", "--from", "1Hour", "--to", "1Day"], 1, "no 1Hour bars of X in bars, only 1Min"),
        (["Y", "--data", "bars", "--to", "1Day"], 1, "unknown symbol 'Y'"),
        (["--data", "bars", "--from", "5Min", "--to", "5Min"], 1, "no 5Min bars of X in bars"),
    ],
)
def test_bad_wishes_for_longer_bars_are_one_line(
    tmp_path: Path, args: list[str], code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    minute_folder(tmp_path / "bars")
    before = contents(tmp_path)
    result = run("resample", *args)

    assert result.exit_code == code
    assert says in result.stderr
    assert contents(tmp_path) == before


def test_a_csv_that_would_be_hidden_is_not_joined(tmp_path: Path) -> None:
    bars(tmp_path / "X.csv", ROWS)
    before = contents(tmp_path)
    result = run("import", tmp_path / "X.csv", "--to", tmp_path)

    assert result.exit_code == 1
    assert "holds bars of X already; move it away" in result.stderr
    assert contents(tmp_path) == before


LEAN_FINDINGS = {
    *(("AIG", "move", day) for day in ("2008-09-12", "2008-09-15", "2008-09-17", "2008-09-19", "2008-09-24")),
    *(("AIG", "move", day) for day in ("2009-03-16", "2009-03-18", "2009-08-05")), ("BAC", "move", "2009-04-09"),
    ("AAPL", "move", "2000-09-29"), ("WM", "move", "1999-07-07"), ("SPY", "dividend extra", "2004-11-15"),
    ("IWM", "dividend extra", "2003-12-12"), ("IWM", "dividend extra", "2003-12-16"), ("QQQ", "dividend extra", "2014-02-27"),
}  # fmt: skip
"""Everything but bad prints (of those that a second source covers each one is confirmed, see test_data_quality)."""


def test_lean_imports_verifies_and_backtests(tmp_path: Path) -> None:
    """The ten symbols with their actions; then three years of two of them through a small backtest."""
    source, actions = shared("data/lean/daily_raw"), shared("data/lean/corporate_actions.csv")
    changes = shared("data/lean/symbol_changes.csv")
    done = run("import", *sorted(source.glob("*.parquet")), "--to", tmp_path / "bars", "--actions", actions, "--changes", changes)  # fmt: skip
    assert done.exit_code == 0
    rows = [line.split("\t") for line in done.stdout.splitlines()[1:]]
    assert {row[0]: int(row[4]) for row in rows} == {
        path.stem: pq.read_metadata(path).num_rows for path in source.glob("*.parquet")
    }
    assert sum(int(row[-1]) for row in rows) == len(pyarrow.csv.read_csv(actions))

    verified = run("verify", "--data", tmp_path / "bars", "--json")
    reports = {report["symbol"]: report for report in json.loads(verified.stdout)["symbols"]}
    assert verified.exit_code == 1
    assert [f["first"] for f in reports["GOOGL"]["findings"] if "low 0.01, close 294.57" in f["what"]] == ["2008-09-30"]
    for symbol, report in reports.items():  # the histories are whole already: no change of name touches one
        assert report["count"] == pq.read_metadata(source / f"{symbol}.parquet").num_rows
    found = {(s, f["kind"], f["first"]) for s, r in reports.items() for f in r["findings"] if f["kind"] != "print"}
    assert found == LEAN_FINDINGS
    prints = {s: sum(f["kind"] == "print" for f in r["findings"]) for s, r in reports.items()}
    assert prints == {
        "AAPL": 4,
        "AIG": 3,
        "BAC": 5,
        "GOOG": 0,
        "GOOGL": 3,
        "IBM": 5,
        "IWM": 1,
        "QQQ": 0,
        "SPY": 17,
        "WM": 1,
    }
    errors = {s: r["errors"] for s, r in reports.items() if r["errors"]}
    assert errors == {"AAPL": 3, "AIG": 2, "BAC": 1, "GOOGL": 3, "IBM": 3, "IWM": 1}

    args = ["--home", tmp_path / "var", "run-backtest", "--data", tmp_path / "bars", "--symbols", "IBM,SPY"]
    args += [
        "--strategies",
        "RSIStrategy",
        "--portfolios",
        "EqualWeightPortfolioStrategy",
        "--start",
        "2017-01-03",
        "--end",
        "2020-12-31",
    ]
    args += [
        "--unit",
        "years",
        "--train",
        1,
        "--test",
        1,
        "--holdout",
        1,
        "--trials",
        2,
        "--portfolio-trials",
        1,
        "--workers",
        1,
        "--json",
    ]
    backtest = CliRunner().invoke(root, list(map(str, args)))
    assert backtest.exit_code == 0, backtest.output
    document = json.loads(backtest.stdout)
    assert set(document["signal"]) == {"IBM", "SPY"}
    assert document["units"]["failed"] == 0
    assert document["data_fingerprint"] == open_catalog(tmp_path / "bars").fingerprint(["IBM", "SPY"], DAY)
