"""Whole backtests from the command line: what they leave behind does not depend on how they came to their end."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import ROOT

ASKED = [
    "--symbols=AAPL,MSFT", "--strategies=RSIStrategy", "--portfolios=EqualWeightPortfolioStrategy", "--windows=2",
    "--portfolio-trials=1",
]  # fmt: skip
TRIALS = 25
UNITS = 12  # 4 searches, 2 evaluations, 2 summaries; 2 portfolio searches, 1 evaluation, 1 summary
VOLATILE = re.compile(rb'\n *"(created_at|run_time_sec)": [^\n]*')


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _nothing_goes_on() -> Iterator[None]:
    """A test that fails leaves no run behind."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def start(home: Path, *options: str, trials: int = TRIALS, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """A backtest in a process group of its own, as a shell starts it."""
    command = [sys.executable, "-m", "algo_royale", "--home", str(home), "run-backtest", *ASKED, f"--trials={trials}"]
    STARTED.append(
        subprocess.Popen(
            [*command, *options], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        )
    )
    return STARTED[-1]


def end(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """What it still prints; fails unless it ends with `code`."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Lines of stderr up to the one that holds `text`."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return seen
    raise AssertionError(f"it ended without saying {text!r}: {''.join(seen)}")


def run(home: Path, *options: str, code: int = 0) -> dict[str, Any]:
    out, _ = end(start(home, "--json", *options), code)
    return dict(json.loads(out))


def artifacts(home: Path) -> dict[str, bytes]:
    """Every file below the artifacts root, but for the lines that say when and how long."""
    root = home / "dev_integration" / "artifacts"
    return {str(p.relative_to(root)): VOLATILE.sub(b"", p.read_bytes()) for p in sorted(root.rglob("*")) if p.is_file()}


def asked_of(home: Path, *words: str) -> str:
    """What a command about the last run's log prints as JSON."""
    command = [sys.executable, "-m", "algo_royale", "--home", str(home), "--json", *words]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout


def workers_of(pid: int) -> list[psutil.Process]:
    return [
        child for child in psutil.Process(pid).children(recursive=True) if "spawn_main" in " ".join(child.cmdline())
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """An undisturbed run with two workers: home, stdout, stderr."""
    home = tmp_path_factory.mktemp("base")
    return home, *end(start(home, "--json", "--workers=2"))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_artifacts_are_the_same_bytes_for_any_number_of_workers(base: Any, tmp_path: Path, workers: int) -> None:
    document = run(tmp_path, f"--workers={workers}")

    assert document["units"] == {"planned": UNITS, "completed": UNITS, "reused": 0, "failed": 0}
    assert document["workers"] == workers
    assert artifacts(tmp_path) == artifacts(base[0])
    assert len(artifacts(tmp_path)) == UNITS + 6 + 1  # with the arrays of six searches, and the manifest


def test_json_is_one_strict_document_with_the_promised_keys_and_progress_is_elsewhere(base: Any) -> None:
    _, out, err = base

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    document = json.loads(out, parse_constant=refuse)
    assert set(document) == {
        "run_id", "schema_version", "environment", "timeframe", "seed", "engine", "workers", "data_fingerprint", "symbols",
        "windows", "units", "signal", "portfolio", "artifacts_root", "report", "elapsed_s",
    }  # fmt: skip
    verdict = {"strategy", "is_viable", "viability_score", "best_params"}
    assert set(document["signal"]) == {"AAPL", "MSFT"}
    assert all(set(found) == verdict for found in document["signal"].values())
    assert set(document["portfolio"]) == verdict | {"metrics"}
    assert len(document["windows"]) == 2
    assert err.splitlines()[-1] == "choose portfolio: 1 of 1"
    assert "optimise signals: 2 of 4" in err


def test_a_repeated_run_reuses_everything_and_its_table_fits_80_columns(base: Any) -> None:
    home = base[0]
    before = artifacts(home)
    out, _ = end(start(home, "--workers=2"))

    lines = out.splitlines()
    assert lines[0].startswith("2 symbols, 2 windows; 0 computed, 12 reused, 0 failed")
    told = [line for line in lines if not line.startswith(("report: ", "artifacts: "))]  # paths are as long as they are
    assert max(map(len, told)) <= 80
    assert [line.split()[:2] for line in lines[4:7]] == [["AAPL", "RSI"], ["MSFT", "RSI"], ["portfolio", "EqualWeight"]]
    assert "…" not in out
    assert artifacts(home) == before


def test_fresh_computes_everything_again(base: Any) -> None:
    home = base[0]
    before = artifacts(home)

    assert run(home, "--workers=2", "--fresh")["units"]["completed"] == UNITS
    assert artifacts(home) == before


def test_a_killed_worker_is_restarted_and_the_log_shows_it(base: Any, tmp_path: Path) -> None:
    process = start(tmp_path, "--workers=1", "--log", "--json")
    read_until(process, "optimise signals: 1 of 4")
    (worker,) = workers_of(process.pid)
    worker.kill()
    out, _ = end(process)

    assert json.loads(out)["units"] == {"planned": UNITS, "completed": UNITS, "reused": 0, "failed": 0}
    assert artifacts(tmp_path) == artifacts(base[0])

    actors = {row["path"]: row for row in json.loads(asked_of(tmp_path, "actors", "tree"))["actors"]}
    row = actors["root/backtest/workers/worker-1"]
    assert (row["generation"], row["restarts"]) == (2, 1)
    assert "ended with -9" in row["last_error"]
    ready = asked_of(tmp_path, "messages", "list", "--type", "WorkerReady")
    assert ready.count('"WorkerReady"') == 2
    told = [
        row["message"]["headline"]
        for row in json.loads(asked_of(tmp_path, "messages", "list", "--type", "StageCompleted"))["messages"]
    ]
    assert len(told) == UNITS
    root = tmp_path / "dev_integration/artifacts"
    for found in told:
        if found["stage"] == "signal_optimization":
            path = (
                root / "signal" / found["symbol"] / found["strategy"] / found["window_id"] / "optimization_result.json"
            )
            (artifact,) = json.loads(path.read_bytes()).values()
            assert found["in_sample"] == artifact["optimization"]["best_value"]
            assert found["out_of_sample"] == artifact["test"]["metrics"]["sharpe_ratio"]
        elif found["stage"] == "symbol_summary":
            artifact = json.loads((root / "signal" / found["symbol"] / "summary_result.json").read_bytes())
            assert (found["viable"], found["score"]) == (artifact["is_viable"], artifact["viability_score"])
            assert found["out_of_sample"] == artifact["oos"]["sharpe_ratio"]


# A cluster has signal handlers and children of its own, so it lives in a process of its own. Ray takes 127.0.0.1 for the machine's
# outward address; the rest of the loopback it leaves alone. The second node freezes when a unit is on it (Ray names its processes
# after what they do), and is removed.
CLUSTER = """
import select, signal, sys
import psutil
from ray.cluster_utils import Cluster

place, host = sys.argv[1:]
node = dict(num_cpus=1, object_store_memory=80 * 2**20, node_ip_address=host, include_dashboard=False, include_log_monitor=False)
cluster = Cluster(initialize_head=True, head_node_args=node | {"temp_dir": place})
second = cluster.add_node(**node)
print(cluster.address, flush=True)
try:
    raylet = psutil.Process(second.all_processes["raylet"][0].process.pid)
    busy = []
    while not busy and not select.select([sys.stdin], [], [], 0.1)[0]:
        busy = [child for child in raylet.children() if "Remote.run" in " ".join(child.cmdline())]
    for child in busy:
        child.send_signal(signal.SIGSTOP)
    cluster.remove_node(second, allow_graceful=False)
    for child in busy:
        child.kill()
    print("lost", flush=True)
    sys.stdin.readline()
finally:
    cluster.shutdown()
"""


@pytest.fixture
def cluster() -> Iterator[subprocess.Popen[str]]:
    """A Ray cluster of two nodes with a processor each, which says its address."""
    place = tempfile.mkdtemp(prefix="ray-")  # pytest's own paths are too long for the sockets in it
    (Path(place) / "ray").mkdir()  # where Ray writes the address down whatever else it is told
    host = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER, place, host], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env=clean | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": place},
    ) as process:  # fmt: skip
        yield process
    shutil.rmtree(place)


def test_a_ray_cluster_that_loses_a_node_makes_the_same_artifacts(
    base: Any, cluster: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Each node has a worker, and both are computing when one node goes: its unit is done again by the other."""
    assert cluster.stdout
    asked = ("--engine=ray", f"--cluster={cluster.stdout.readline().strip()}", "--workers=2")
    process = start(tmp_path, *asked, "--log", "--json")
    assert cluster.stdout.readline() == "lost\n"
    out, _ = end(process)

    document = json.loads(out)
    assert document["units"] == {"planned": UNITS, "completed": UNITS, "reused": 0, "failed": 0}
    assert (document["engine"], document["workers"]) == ("ray", 2)
    assert artifacts(tmp_path) == artifacts(base[0])
    assert asked_of(tmp_path, "messages", "list", "--type", "RunStage").count('"RunStage"') == UNITS + 1
    assert asked_of(tmp_path, "messages", "list", "--type", "StageCompleted").count('"StageCompleted"') == UNITS
    assert "while on signal/" in asked_of(tmp_path, "actors", "tree")


def test_without_ray_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    """A folder that only pretends to hold Ray stands before the real one."""
    (tmp_path / "ray.py").write_text("raise ImportError('not here')")
    command = [sys.executable, "-m", "algo_royale", "--home", str(tmp_path), "run-backtest", *ASKED, "--engine=ray"]
    done = subprocess.run(
        command, cwd=ROOT, text=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(tmp_path)}, timeout=120
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[:1] == ["error: the Ray engine needs Ray: pip install 'algo-royale[cluster]'"]


def test_a_killed_run_leaves_nobody_behind_and_the_next_one_goes_on(base: Any, tmp_path: Path) -> None:
    process = start(tmp_path, "--workers=2")
    read_until(process, "optimise signals: 2 of 4")
    workers = workers_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive, "orphans"
    half = tmp_path / "dev_integration/artifacts/signal/AAPL/.summary_result.json.1.tmp"
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_text('{"kind"')

    document = run(tmp_path, "--workers=2")

    assert 2 <= document["units"]["reused"] < UNITS
    assert document["units"]["reused"] + document["units"]["completed"] == UNITS
    assert artifacts(tmp_path) == artifacts(base[0])


def test_a_unit_that_always_fails_is_reported_and_the_others_complete(base: Any, tmp_path: Path) -> None:
    """A folder stands where the artifact must go."""
    window = json.loads(base[1])["windows"][0]["window_id"]
    key = f"signal/AAPL/RSIStrategy/{window}/optimization_result.json"
    (tmp_path / "dev_integration/artifacts" / key / "in the way").mkdir(parents=True)

    out, err = end(start(tmp_path, "--workers=2", "--json"), 1)

    document = json.loads(out)
    assert f"failed: {key}: cannot write" in err
    assert document["units"] == {"planned": UNITS, "completed": 5, "reused": 0, "failed": 7}
    assert set(document["signal"]) == {"MSFT"}
    assert document["portfolio"] is None
    manifest = json.loads((tmp_path / "dev_integration/artifacts/run_manifest.json").read_bytes())
    failed = {unit for unit, found in manifest["units"].items() if found["status"] == "failed"}
    assert key in failed and len(failed) == 7
    assert manifest["units"]["signal/AAPL/summary_result.json"]["error"].endswith("which failed")
    assert {found["status"] for unit, found in manifest["units"].items() if "MSFT" in unit and "AAPL" not in unit} == {
        "complete"
    }


def test_one_interrupt_finishes_what_runs_and_says_how_to_resume(base: Any, tmp_path: Path) -> None:
    process = start(tmp_path, "--workers=1")
    read_until(process, "optimise signals: 1 of 4")
    os.killpg(process.pid, signal.SIGINT)
    _, err = end(process, 0)

    assert re.search(r"^interrupted with \d+ of 12 units to go; run the same command to resume$", err, re.MULTILINE)
    done = {name: content for name, content in artifacts(tmp_path).items() if name != "run_manifest.json"}
    whole = artifacts(base[0])
    assert 0 < len(done) < len(whole) and done.items() <= whole.items()

    assert run(tmp_path, "--workers=2")["units"]["reused"] >= 1
    assert artifacts(tmp_path) == whole


def test_two_interrupts_end_it_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, "--workers=2", "-v", trials=100_000)  # units of a quarter of an hour
    read_until(process, "optimise signals: begin AAPL")
    workers = workers_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    read_until(process, "Ctrl-C again")
    os.killpg(process.pid, signal.SIGINT)
    _, err = end(process, 130)

    assert "interrupted with 12 of 12 units to go; run the same command to resume" in err
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix not in (".lock", ".bars")]


def test_on_a_terminal_there_is_a_bar_for_each_stage(base: Any) -> None:
    ours, theirs = pty.openpty()
    process = start(base[0], "--workers=1", stderr=theirs)
    os.close(theirs)
    shown = "".join(_lines(ours, process))
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    last = plain.split("optimise signals")[-1].splitlines()
    assert [line.split("━")[0].strip() for line in last[:6]] == [
        "", "judge signals", "judge symbols", "optimise portfolios", "judge portfolios", "choose portfolio"
    ]  # fmt: skip
    assert [line.split()[-2] for line in last[:6]] == ["4/4", "2/2", "2/2", "2/2", "1/1", "1/1"]
    assert shown.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in shown, "the cursor is back"
    assert out.startswith("2 symbols")


def _lines(terminal: int, process: subprocess.Popen[str]) -> Iterator[str]:
    """What comes out of the terminal until the other end closes."""
    while True:
        if not select.select([terminal], [], [], 120)[0]:
            process.kill()
            raise AssertionError("the terminal is silent")
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            return
        if not chunk:
            return
        yield chunk.decode(errors="replace")
