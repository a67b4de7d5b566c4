"""Whatever is wrong with what a person gives, the answer is one clear line and an exit code, and nothing is half-written."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from algo_royale.app.cli import Settings, root
from algo_royale.app.cli.backtest import research_config
from algo_royale.app.lock import single_instance
from algo_royale.research import stages
from algo_royale.research.viability import Check, ViabilityConfig
from algo_royale.sessions import calendar
from algo_royale.strategies import loading

ENV = "dev_integration"


def ask(home: Path, *words: str) -> Result:
    return CliRunner().invoke(root, ["--home", str(home), *words])


def said(result: Result, code: int) -> str:
    """The one line that says what is wrong (click puts its usage above it)."""
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line and not line.startswith(("Usage: ", "Try '"))]
    assert len(lines) == 1, lines
    assert lines[0].lower().startswith("error: ")
    return lines[0]


def written(home: Path) -> list[str]:
    """Files that are there although nothing was made; an empty lock says nothing, nor do bars that are prepared and whole."""
    return (
        [str(p.relative_to(home)) for p in home.rglob("*") if p.is_file() and p.suffix not in (".lock", ".bars")]
        if home.is_dir()
        else []
    )


# --- what is asked for ---------------------------------------------------------------------------------------------------

OPTIONS = [
    ("run-backtest --symbols AAPLE", 1, "unknown symbol 'AAPLE'; did you mean 'AAPL'?"),
    ("run-backtest --symbols 4apl", 1, "must be a ticker in capitals"),
    ("run-backtest --symbols aaple", 1, "unknown symbol 'AAPLE'; did you mean 'AAPL'?"),
    ("run-backtest --symbols AAPL,AAPL", 1, "names one twice"),
    ("run-backtest --sampler cmaes", 2, "'cmaes' is not one of 'tpe', 'qmc', 'random', 'grid'"),
    ("run-backtest --pruner median", 1, "folds must be 2 or more"),
    ("run-backtest --folds 0", 1, "research.search.folds: should be greater than or equal to 1"),
    ("run-backtest --folds 99", 1, "research.search.folds: should be less than or equal to 20"),
    ("run-backtest --objective beauty", 1, "research.objective: should be 'total_return'"),
    ("run-backtest --objective calmar_ratio,calmar_ratio", 1, "objective names one twice: calmar_ratio, calmar_ratio"),
    (
        "run-backtest --objective calmar_ratio,total_return --folds 3 --pruner hyperband", 1,
        "the hyperband pruner can compare trials by one objective, not by several",
    ),
    ("run-backtest --symbols aapl --windows 0", 1, "research.windows: should be greater than or equal to 1"),
    ("run-backtest --engine spark", 2, "'spark' is not one of 'processes', 'ray'"),
    ("run-backtest --engine ray --cluster 127.0.0.1:1", 1, "no Ray cluster at 127.0.0.1:1: Connection refused"),
    ("run-backtest --name ../elsewhere", 1, "--name '../elsewhere': letters, digits, dot, dash and underscore"),
    ("run-backtest --estimate --symbols AAPLE", 1, "unknown symbol 'AAPLE'; did you mean 'AAPL'?"),
    ("run-backtest --estimate --train 40", 1, "no walk-forward window fits in 2000-03-01 .. 2013-03-01"),
    ("report nowhere", 1, "research/nowhere/artifacts/run_manifest.json does not exist; run run-backtest to make it"),
    ("report ./nowhere", 1, "nowhere/run_manifest.json does not exist; run run-backtest to make it"),
    ("report no!where", 1, "--name 'no!where': letters, digits, dot, dash and underscore"),
    ("run-backtest --symbols ,", 1, "--symbols names nothing"),
    ("run-backtest --strategies RSIStrat", 1, "unknown strategy 'RSIStrat'; did you mean 'RSIStrategy'?"),
    ("run-backtest --portfolios EqualWeight", 1, "did you mean 'EqualWeightPortfolioStrategy'?"),
    ("run-backtest --start 2013-01-01 --end 2012-01-01", 1, "start 2013-01-01 is not before end 2012-01-01"),
    ("run-backtest --start 2030-01-01", 1, "the range 2030-01-01 .. 2013-03-01 is empty"),
    ("run-backtest --start 2012-01-01 --end 2012-02-01", 1, "no walk-forward window fits in 2012-01-01 .. 2012-02-01"),
    ("run-backtest --start yesterday", 2, "'yesterday' does not match the format '%Y-%m-%d'"),
    ("run-backtest --train 40", 1, "no walk-forward window fits in 2000-03-01 .. 2013-03-01: train 40 + test 1 years"),
    ("run-backtest --train -3", 1, "research.train: should be greater than or equal to 1 (it is -3)"),
    ("run-backtest --test 2 --step 1", 1, "step 1 is shorter than test 2: out-of-sample ranges would overlap"),
    ("run-backtest --windows 0", 1, "research.windows: should be greater than or equal to 1 (it is 0)"),
    ("run-backtest --workers -1", 1, "research.workers: should be greater than or equal to 0 (it is -1)"),
    ("run-backtest --trials 0", 1, "research.trials: should be greater than or equal to 1 (it is 0)"),
    ("run-backtest --trials many", 2, "'many' is not a valid integer"),
    ("run-backtest --timeframe 1Min", 1, "no 1Min bar lies in regular hours"),
    ("run-backtest --timeframe 2Day", 2, "'2Day' is not one of"),
    ("run-backtest --data /nowhere", 1, "no market data at '/nowhere': it is neither 'bundled' nor a folder"),
    ("run-backtest --trails 3", 2, "No such option '--trails'"),
    ("run-backtets", 2, "no such command 'run-backtets'; did you mean 'run-backtest'?"),
    ("--env prod_papr run-trader", 2, "'prod_papr' is not one of"),
    ("--config /nowhere.toml run-backtest", 2, "File '/nowhere.toml' does not exist"),
    ("run-trader", 1, "has no artifacts; run `run-backtest` first"),
    ("final", 1, "run_manifest.json does not exist; run run-backtest to make it"),
    ("artifacts list", 1, "run_manifest.json does not exist; run run-backtest to make it"),
    ("artifacts verify", 1, "run_manifest.json does not exist; run run-backtest to make it"),
    ("artifacts verify /nowhere", 2, "Path '/nowhere' does not exist"),
    ("artifacts show", 2, "Missing argument 'FILE'"),
    ("artifacts reproduce /nowhere.json", 2, "File '/nowhere.json' does not exist"),
    ("run-trader --speed fast", 1, "--speed 'fast' is neither a number nor 'max'"),
    ("run-trader --speed -3", 1, "must be 'max' or a number above 0"),
    ("run-trader --start 2012-06-01 --until 2012-05-01", 1, "start 2012-06-01 is after until 2012-05-01"),
    ("run-exchange --start 2030-01-01", 1, "no sessions from 2030-01-01"),
    ("messages list", 1, "no message log under"),
    ("equity --since yesterday", 2, "'yesterday' does not match the format '%Y-%m-%d'"),
    ("stop", 1, "no trader is running"),
    ("data list --data /nowhere", 1, "no market data at '/nowhere'"),
    ("data verify APPL", 1, "unknown symbol 'APPL'; did you mean 'AAPL'?"),
    ("data verify --timeframe 2Min", 2, "'2Min' is not one of"),
    ("data resample --to 1Day", 1, "the bundled bars are daily and stay as they are"),
    ("data resample --data /nowhere --to 5Min", 1, "no market data at '/nowhere'"),
    ("data fetch AAPL", 2, "Missing option '--to'"),
    ("data fetch aapl --to bars", 1, "aapl: must be a ticker in capitals"),
    ("data fetch AAPL --to bars", 1, "dev_integration has no market data server; say --env prod_paper"),
    ("data fetch AAPL --to bars --start 2100-01-01", 1, "--start 2100-01-01 is still to come"),
    ("data fetch AAPL --to bars --start 2020-01-02 --end 2019-01-02", 1, "--start 2020-01-02 is after --end 2019-01-02"),
    ("--env prod_paper data fetch AAPL --to bars", 1, "no broker keys: set APCA_API_KEY_ID"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code", "says"), OPTIONS, ids=[row[0] for row in OPTIONS])
def test_an_impossible_wish_is_answered_in_one_line(tmp_path: Path, words: str, code: int, says: str) -> None:
    assert says in said(ask(tmp_path, *words.split()), code)
    assert not written(tmp_path)


CONFIGURATION = [
    ("[reserch]\ntrials = 3", "unknown key reserch; did you mean research?"),
    ("[research]\ntrails = 3", "unknown key research.trails; did you mean trials?"),
    ("[research]\ntrials = 'many'", "research.trials: should be a valid integer (it is 'many')"),
    ("[research]\nsymbols = 'AAPL'", "research.symbols: should be a valid tuple"),
    ("[costs]\nslippage_bps = -5", "costs.slippage_bps: should be greater than or equal to 0"),
    ("[risk]\nrestricted = ['aapl']", "must be a ticker in capitals"),
    ("[orders]\ntype = 'stop'", "should be 'market', 'marketable_limit', 'opening_auction' or 'closing_auction'"),
    ("[orders]\ncollar_bps = 10000", "orders.collar_bps: should be less than 10000"),
    ("[orders]\nflatten_at_close = true", "orders.flatten_at_close needs bars within a session"),
    ("[orders]\ntype = 'closing_auction'\n[research]\ntimeframe = '5Min'", "needs research.timeframe 1Day"),
    ("[orders]\ntype = 'opening_auction'\n[account]\ntrader_lot = 0.5", "takes whole shares only"),
    ("[orders]\ntype = 'opening_auction'\nwait_for_sells = true", "after its sales, an auction is over"),
    ("[orders]\npost_fill_delay_s = -1", "should be greater than or equal to 0"),
    ("[orders]\nsettlement_hold = true", "should be 'auto', 'on' or 'off'"),
    ("[research]\ntrials = ", "not TOML"),
    ("\x00", "not TOML"),
]


@pytest.mark.parametrize(("text", "says"), CONFIGURATION, ids=[repr(row[0]) for row in CONFIGURATION])
def test_a_wrong_configuration_names_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    line = said(ask(tmp_path / "home", "--config", str(file), "run-backtest"), 1)

    assert says in line and str(file) in line
    assert not written(tmp_path / "home")


# --- market data ---------------------------------------------------------------------------------------------------------

Columns = dict[str, np.ndarray]


def prices(n: int = 300) -> Columns:
    days = calendar().sessions(date(2010, 1, 4), date(2012, 1, 1))[:n]
    close = 50 + np.sin(np.arange(n) / 5)
    return {
        "timestamp": np.array([day.label_ns for day in days]), "open": close, "high": close + 1, "low": close - 1,
        "close": close.copy(), "volume": np.full(n, 1000.0),
    }  # fmt: skip


def _set(name: str, row: int, value: float) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[name][row] = value

    return change


def _swap(columns: Columns) -> None:
    columns["timestamp"][[7, 8]] = columns["timestamp"][[8, 7]]


def _twice(columns: Columns) -> None:
    columns["timestamp"][8] = columns["timestamp"][7]


def _empty(columns: Columns) -> None:
    for name in columns:
        columns[name] = columns[name][:0]


def _sunday(columns: Columns) -> None:
    columns["timestamp"][4] += 86_400 * 10**9  # the fifth session is a Friday


def _silent(columns: Columns) -> None:
    columns["signal"] = np.array([True] * 7 + [None] + [True] * (len(columns["close"]) - 8), object)


WRONG: list[tuple[str, Callable[[Columns], object], str]] = [
    ("NaN", _set("close", 7, float("nan")), "row 7"),
    ("infinite", _set("high", 7, float("inf")), "row 7"),
    ("negative", _set("low", 7, -1.0), "row 7"),
    ("zero", _set("low", 7, 0.0), "row 7"),
    ("high below close", _set("high", 7, 10.0), "row 7"),
    ("negative volume", _set("volume", 7, -1.0), "row 7"),
    ("unsorted", _swap, "row 8"),
    ("duplicate", _twice, "row 8"),
    ("no session", _sunday, "row 4"),
    ("missing column", lambda columns: columns.pop("volume"), "no column 'volume'"),
    ("empty", _empty, "no rows"),
    ("neither true nor false", _silent, "row 7: signal is neither true nor false"),
]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(("change", "says"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_prices_that_cannot_be_true_are_refused_by_file_and_row(
    tmp_path: Path, suffix: str, change: Callable[[Columns], object], says: str
) -> None:
    columns = prices()
    change(columns)
    stamps = pyarrow.array(columns["timestamp"], pyarrow.timestamp("ns", tz="UTC"))
    table = pyarrow.table({**columns, "timestamp": stamps})
    (tmp_path / "data").mkdir()
    if suffix == "csv":
        pyarrow.csv.write_csv(table, tmp_path / "data" / "XYZ.csv")
    else:
        pyarrow.parquet.write_table(table, tmp_path / "data" / "XYZ.parquet")

    line = said(ask(tmp_path / "home", "run-backtest", "--data", str(tmp_path / "data")), 1)

    assert f"XYZ.{suffix}" in line and says in line
    assert not written(tmp_path / "home")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("XYZ.parquet", b"these are no prices", "XYZ.parquet: unreadable"),
        ("XYZ.csv", b"", "XYZ.csv: unreadable"),
        ("XYZ.csv", b"timestamp,open\n1,2,3\n", "XYZ.csv: unreadable"),
        ("XYZ.csv", b"timestamp,open,high,low,close,volume\nnever,1,1,1,1,1\n", "timestamp 'never' is not ISO 8601"),
        ("XYZ.csv", b"timestamp,open,high,low,close,volume\n2010-01-04,1,1,1,much,1\n", "close 'much' is not a number"),
        ("notes.txt", b"", "no market data in"),
    ],
)
def test_files_that_are_no_prices_are_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(content)

    assert says in said(ask(tmp_path / "home", "run-backtest", "--data", str(tmp_path / "data")), 1)
    assert not written(tmp_path / "home")


def daily_bars(path: Path) -> None:
    columns = prices()
    stamps = pyarrow.array(columns["timestamp"], pyarrow.timestamp("ns", tz="UTC"))
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table({**columns, "timestamp": stamps}), path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("what,when\nA,2013-01-02\n", "needs the columns old_symbol, new_symbol and date, not what, when"),
        ("old_symbol,new_symbol,date\nFB,XYZ,soon\n", "line 2: FB became XYZ on soon: not two names and a date"),
        ("old_symbol,new_symbol,date\nXYZ,XYZ,2013-01-02\n", "line 2: XYZ became XYZ on 2013-01-02: not two names and a date"),
        ("old_symbol,new_symbol,date\nA,XYZ,2013-01-02\nB,XYZ,2013-01-02\n", "line 3: on 2013-01-02 both A and B became XYZ"),
        ("", "symbol_changes.csv: unreadable"),
    ],
)  # fmt: skip
def test_changes_of_symbol_that_make_no_sense_are_refused(tmp_path: Path, content: str, says: str) -> None:
    daily_bars(tmp_path / "data" / "XYZ.parquet")
    (tmp_path / "data" / "symbol_changes.csv").write_text(content)
    line = said(ask(tmp_path / "home", "run-backtest", "--data", str(tmp_path / "data")), 1)

    assert "symbol_changes.csv" in line and says in line
    assert not written(tmp_path / "home")


def test_bars_of_a_length_that_there_is_none_of_are_missed_with_what_there_is(tmp_path: Path) -> None:
    daily_bars(tmp_path / "data" / "1Day" / "XYZ.parquet")
    line = said(ask(tmp_path / "home", "run-backtest", "--data", str(tmp_path / "data"), "--timeframe", "5Min"), 1)

    assert "no 5Min bars of XYZ in" in line and "only 1Day; `data resample` makes longer bars of shorter ones" in line
    assert not written(tmp_path / "home")


# --- places and neighbours -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["/proc/nothing", "/dev/null/home", "a file", "a file below"])
@pytest.mark.parametrize("command", ["run-backtest", "run-trader"])
def test_a_home_that_cannot_be_written_is_named(tmp_path: Path, where: str, command: str) -> None:
    (tmp_path / "file").write_text("mine")
    home = {"a file": tmp_path / "file", "a file below": tmp_path / "file" / "home"}.get(where, Path(where))

    assert f"cannot write in {home / ENV}" in said(ask(home, command), 1)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_lock_that_cannot_say_whose_it_is_is_let_go(tmp_path: Path) -> None:
    (tmp_path / ENV / "run-trader.pid").mkdir(parents=True)
    assert f"cannot write in {tmp_path / ENV}" in said(ask(tmp_path, "run-trader"), 1)
    (tmp_path / ENV / "run-trader.pid").rmdir()
    with single_instance(tmp_path / ENV, "run-trader"):
        pass


@pytest.mark.parametrize("command", ["run-backtest", "run-trader"])
def test_a_second_instance_is_told_who_is_there(tmp_path: Path, command: str) -> None:
    with single_instance(tmp_path / ENV, command):
        line = said(ask(tmp_path, command), 1)
        assert f"{command} is already running in" in line and f"process {os.getpid()}" in line
        assert (tmp_path / ENV / f"{command}.pid").exists(), "the refused one took nothing away"


# --- what an earlier run left --------------------------------------------------------------------------------------------

SUMMARY, PORTFOLIO = "signal/MSFT/summary_result.json", "portfolio/AAPL_MSFT/summary_result.json"
EVALUATION = "signal/MSFT/RSIStrategy/evaluation_result.json"


@pytest.fixture(scope="module")
def researched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of a small backtest."""
    home = tmp_path_factory.mktemp("researched")
    flags = {
        "symbols": ("AAPL", "MSFT"), "strategies": ("RSIStrategy",), "portfolios": ("EqualWeightPortfolioStrategy",),
        "windows": 2, "trials": 12, "portfolio_trials": 1, "min_trades": 1,
    }  # fmt: skip
    config = Settings(home=home).with_flags({"research": flags})
    made = research_config(config, home / ENV / "artifacts")
    lenient = ViabilityConfig(checks=(Check(name="num_trades", op=">=", threshold=1),))
    stages.run_all(replace(made, viability=lenient))
    return home


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _rewrite(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def rewritten(path: Path) -> None:
        document = json.loads(path.read_bytes())
        change(document)
        path.write_text(json.dumps(document))

    return rewritten


def _not_viable(path: Path) -> None:
    for symbol in ("AAPL", "MSFT"):
        summary = path.parent.parent / symbol / "summary_result.json"
        _rewrite(lambda d: d.update(candidates=[c | {"is_viable": False} for c in d["candidates"]]))(summary)


ARTIFACTS: list[tuple[str, str, Callable[[Path], object], str]] = [
    ("truncated", SUMMARY, _truncate, "is corrupt"),
    ("not JSON", SUMMARY, lambda path: path.write_bytes(b"\xff\xfe"), "is corrupt"),
    ("NaN", SUMMARY, lambda path: path.write_text('{"schema_version": NaN}'), "NaN is not strict JSON"),
    ("another schema", SUMMARY, _rewrite(lambda d: d.update(schema_version=99)), "has schema version 99, this program reads 1"),
    ("another kind", SUMMARY, _rewrite(lambda d: d.update(kind="poem")), "kind 'poem' is unknown"),
    ("incomplete", SUMMARY, _rewrite(lambda d: d.pop("candidates")), "'candidates' is missing"),
    ("a list", SUMMARY, lambda path: path.write_text("[]"), "not an object"),
    ("missing portfolio", PORTFOLIO, Path.unlink, "does not exist; run run-backtest"),
    ("portfolio not viable", PORTFOLIO, _rewrite(lambda d: d.update(is_viable=False)), "no portfolio strategy is viable"),
    ("nothing viable", SUMMARY, _not_viable, "nothing is viable in"),
    ("corrupt manifest", "run_manifest.json", _truncate, "run_manifest.json is corrupt"),
    ("an older manifest", "run_manifest.json", _rewrite(lambda d: d.update(schema_version=0)), "has schema version 0"),
    ("another length of bar", SUMMARY, _rewrite(lambda d: d["meta"].update(timeframe="15Min")), "is of 15Min bars, the last backtest was of 1Day"),
    ("another portfolio's", PORTFOLIO, _rewrite(lambda d: d["meta"].update(timeframe="1Min")), "is of 1Min bars, the last backtest was of 1Day"),
    ("no length of bar", "run_manifest.json", _rewrite(lambda d: d.update(timeframe="2Min")), "is of 2Min bars, none of 1Min"),
    (
        "other strategies", "run_manifest.json", _rewrite(lambda d: d.update(strategies_version="0123456789ab")),
        "the program's strategies have changed since the backtest (version ",
    ),
    (
        "other arguments", EVALUATION, _rewrite(lambda d: d["best_params"]["entry_conditions"][0]["RSIEntry"].update(oversold=21)),
        "the backtest judged ",
    ),
    ("arguments of none", EVALUATION, _rewrite(lambda d: d.update(best_params={"wings": 2})), "RSIStrategy cannot be built as it was judged"),
    (
        "interrupted", "run_manifest.json", _rewrite(lambda d: d["units"][PORTFOLIO].update(status="pending")),
        "the last backtest did not finish it (pending)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("file", "harm", "says"), [row[1:] for row in ARTIFACTS], ids=[row[0] for row in ARTIFACTS])
def test_the_trader_refuses_artifacts_that_are_not_whole(
    researched: Path, tmp_path: Path, file: str, harm: Callable[[Path], object], says: str
) -> None:
    home = tmp_path / "home"
    shutil.copytree(researched, home)
    harm(home / ENV / "artifacts" / file)
    before = written(home)

    assert says in said(ask(home, "run-trader"), 1)
    assert written(home) == before


def test_a_symbol_that_the_backtest_does_not_know_is_refused_by_the_trader(researched: Path) -> None:
    assert "IBM: the backtest has no summary for it" in said(ask(researched, "run-trader", "--symbols", "IBM"), 1)


@pytest.mark.parametrize("env", ["prod_paper", "prod_live"])
def test_without_keys_there_is_no_trading_at_alpaca(researched: Path, tmp_path: Path, env: str) -> None:
    shutil.copytree(researched / ENV, tmp_path / env)

    assert "no broker keys: set APCA_API_KEY_ID" in said(ask(tmp_path, "--env", env, "run-trader"), 1)
    assert not (tmp_path / env / "ledger.db").exists()


def test_money_wants_the_number_of_its_account(
    researched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(researched / ENV, tmp_path / "prod_live")
    monkeypatch.setenv("APCA_API_KEY_ID", "key")
    monkeypatch.setenv("APCA_API_SECRET_KEY", "very secret")
    line = said(ask(tmp_path, "--env", "prod_live", "run-trader"), 1)

    assert "prod_live trades with money: give --live-account" in line
    assert "very secret" not in line


def test_research_on_prices_of_years_ago_is_not_traded_at_alpaca(
    researched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundled prices end in 2013; refused before anything is asked of the broker."""
    shutil.copytree(researched / ENV, tmp_path / "prod_paper")
    monkeypatch.setenv("APCA_API_KEY_ID", "key")
    monkeypatch.setenv("APCA_API_SECRET_KEY", "very secret")
    line = said(ask(tmp_path, "--env", "prod_paper", "run-trader"), 1)

    assert "the research's prices end on 2013-03-01" in line and "research_age_days_max" in line
    assert not (tmp_path / "prod_paper" / "ledger.db").exists()


def test_a_keys_file_for_everybody_is_refused(researched: Path, tmp_path: Path) -> None:
    shutil.copytree(researched / ENV, tmp_path / "prod_paper")
    keys, config = tmp_path / "keys", tmp_path / "mine.toml"
    keys.write_text("APCA_API_KEY_ID=key\nAPCA_API_SECRET_KEY=very secret\n")
    keys.chmod(0o644)
    config.write_text(f"[broker]\nkeys_file = '{keys}'\n")
    line = said(ask(tmp_path, "--env", "prod_paper", "--config", str(config), "run-trader"), 1)

    assert f"run: chmod 600 {keys}" in line and "very secret" not in line


@pytest.mark.parametrize("words", ["messages list", "messages stats", "actors tree", "messages trace 1"])
def test_a_message_log_that_is_none_is_refused(tmp_path: Path, words: str) -> None:
    log = tmp_path / ENV / "runs" / "20130103-1" / "messages.db"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"SQLite format 3\x00" + b"nonsense" * 100)

    assert "messages.db" in said(ask(tmp_path, *words.split()), 1)
    assert log.stat().st_size == 816


@pytest.mark.parametrize("words", ["status", "orders", "equity", "db status", "halt", "db migrate"])
def test_a_ledger_that_is_none_is_refused(tmp_path: Path, words: str) -> None:
    """A head that is SQLite's and a body that is nobody's: it opens, and fails at the first look."""
    ledger = tmp_path / ENV / "ledger.db"
    ledger.parent.mkdir()
    ledger.write_bytes(b"SQLite format 3\x00" + b"nonsense" * 100)

    assert "ledger.db" in said(ask(tmp_path, *words.split()), 5)
    assert ledger.stat().st_size == 816


def test_a_trader_that_has_no_control_socket_yet_is_waited_for_and_then_named(tmp_path: Path) -> None:
    with single_instance(tmp_path / ENV, "run-trader"):
        line = said(ask(tmp_path, "halt", "--timeout", "0.2"), 1)
    assert "nothing is committed: the trader is starting or ending, and did not answer within 0.2 s" in line


# --- a user's own strategies ---------------------------------------------------------------------------------------------

OWN = "from algo_royale.strategies.own import *\n\n"
GOOD = "@condition\ndef up(bars):\n    return bars.close[-1] > bars.open[-1]\n\n"
BROKEN_STRATEGIES = [
    ("", "mine.py: no strategy in this file: it never calls strategy("),
    ("def f(:\n", "mine.py:3: invalid syntax"),
    ("if True:\nx = 1\n", "mine.py:4: expected an indented block"),
    ("\x00", "source code"),
    ("import pandaz\n", "mine.py:3: ModuleNotFoundError: No module named 'pandaz'"),
    ("1 / 0\n", "mine.py:3: ZeroDivisionError: division by zero"),
    ("raise SystemExit(3)\n", "mine.py:3: SystemExit: 3"),
    ("strategy('Mine', entry=up, exit='RSIExit')\n", "mine.py:3: NameError: name 'up' is not defined"),
    ("strategy('Mine', entry='RSIEntri', exit='RSIExit')\n", "mine.py:3: Mine: unknown condition 'RSIEntri'; did you mean 'RSIEntry'?"),
    ("strategy('Mine', entry='RSIEntry', exit='RSIExit', logic='Trailing')\n", "mine.py:3: Mine: unknown stateful logic 'Trailing'"),
    ("strategy('RSIStrategy', entry='RSIEntry', exit='RSIExit')\n", "mine.py:3: 'RSIStrategy' is the name of a built-in"),
    ("strategy('Mine', entry='RSIEntry', exit='RSIExit')\n" * 2, "mine.py:4: 'Mine' is defined twice"),
    ("strategy('Mine', entry='RSIEntry')\n", "mine.py:3: Mine has neither an exit condition nor a logic that exits"),
    ("strategy('Mine', exit='RSIExit')\n", "mine.py:3: Mine has neither an entry condition nor a logic that enters"),
    ("strategy('my strategy', entry='RSIEntry', exit='RSIExit')\n", "mine.py:3: 'my strategy' is no name for a strategy"),
    ("strategy('Mine', entry=len, exit='RSIExit')\n", "mine.py:3: Mine: entry takes names of the catalogue and functions"),
    ("strategy('Mine', entry='RSIEntry', exit='RSIExit', limits={'RSIEntry': {'perod': integer(1, 2, 1)}})\n", "limits name RSIEntry.perod"),
    ("@condition\ndef RSIEntry(bars):\n    return True\nstrategy('Mine', entry=RSIEntry, exit='RSIExit')\n", "mine.py:3: 'RSIEntry' is the name of a built-in"),
    ("@condition\ndef up(bars, days):\n    return True\n", "mine.py:3: up takes bars, then parameters with what they may be"),
    ("@condition(lookback='days')\ndef up(bars):\n    return True\n", "mine.py:3: up: lookback 'days' is none of its integer parameters"),
    ("@condition(lookback=0)\ndef up(bars):\n    return True\nstrategy('Mine', entry=up, exit='RSIExit')\n", "mine.py:3: up: lookback is a number of bars from 1 to 10000"),
    ("@condition\ndef up(bars, n=integer(5, 9, 3)):\n    return True\n", "mine.py:3: up: the default of n, 3, is not among its values"),
    ("@condition(uses='rzi')\ndef up(bars):\n    return True\nstrategy('Mine', entry=up, exit='RSIExit')\n", "mine.py:3: up uses 'rzi', which is no feature of the catalogue"),
    ("@rule\ndef up(bars):\n    return ENTER\nstrategy('Mine', entry=up, exit='RSIExit')\n", "mine.py:6: Mine: up is a rule, and entry takes a condition"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), BROKEN_STRATEGIES, ids=[row[1][:50] for row in BROKEN_STRATEGIES])
def test_a_broken_strategy_file_names_file_line_and_reason(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN + text)
    line = said(ask(tmp_path / "home", "strategies", "show", "RSIStrategy", "--strategy-path", str(file)), 1)

    assert says in line and str(file) in line
    assert not written(tmp_path / "home")


FAILING_STRATEGIES = [
    ("@condition\ndef f(bars):\n    return bars.close[-1]\n", "mine.py:3: f returned np.float64("),
    ("@condition\ndef f(bars):\n    return bars.close[5] > 0\n", "mine.py:5: f: IndexError: index 5 is out of bounds"),
    ("@condition\ndef f(bars):\n    return bars.vwop[-1] > 0\n", "mine.py:5: f: AttributeError: bars have no 'vwop'"),
    ("@condition\ndef f(bars):\n    bars.close[-1] = 1\n    return True\n", "mine.py:5: f: ValueError: assignment destination is read-only"),
    ("@condition(vectorised=True)\ndef f(bars):\n    return bars.close\n", "mine.py:3: f returned an array of shape ("),
    ("@condition(vectorised=True)\ndef f(bars):\n    return bars.close[1:] > 1\n", "values of bool, one per bar"),
    ("@condition(state=(0.0,))\ndef f(bar, state):\n    return True\n", "mine.py:3: f returned True, not its answer and a state of 1 numbers"),
    ("@condition(lookback=lambda: 1 / 0)\ndef f(bars):\n    return True\n", "mine.py:3: f: ZeroDivisionError: division by zero"),
    ("import numpy as np\n@condition(vectorised=True)\ndef f(bars):\n    return bars.close < bars.close[-1]\n", "Mine may not be backtested: only bars after the one that was judged were changed"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), FAILING_STRATEGIES, ids=[row[1][:50] for row in FAILING_STRATEGIES])
def test_a_strategy_that_fails_when_it_runs_is_refused_before_anything_is_written(
    tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"{OWN}{text}strategy('Mine', entry=f, exit='RSIExit')\n")
    wish = ("run-backtest", "--symbols", "AAPL", "--strategies", "Mine", "--strategy-path", str(file))
    line = said(ask(tmp_path / "home", *wish), 1)

    assert says in line and f"{file}:" in line
    assert not written(tmp_path / "home")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("strategies list --strategy-path {0}/none.py", "none.py: cannot read this strategy file: No such file"),
        ("strategies list --strategy-path {0}", "no strategy files (*.py) in this folder"),
        ("strategies new my-strategy", "'my-strategy' is no name for a strategy"),
        ("strategies new RSIStrategy", "'RSIStrategy' is the name of a strategy that is there already"),
        ("check lookahead RSIStrat", "unknown strategy 'RSIStrat'; did you mean 'RSIStrategy'?"),
        ("run-backtest --strategies Mine --strategy-path {0}/none.py", "none.py: cannot read this strategy file"),
    ],
)
def test_a_strategy_that_is_not_there_is_said_plainly(tmp_path: Path, words: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    line = said(ask(tmp_path / "home", *words.format(tmp_path / "empty").split()), 1)

    assert says in line
    assert not written(tmp_path / "home")


@pytest.fixture(autouse=True)
def no_own_strategies() -> Iterator[None]:
    yield
    loading.forget()
