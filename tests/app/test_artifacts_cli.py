"""The artifacts of a run on the command line: listed, shown, checked, and made again from the file alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from algo_royale.app.cli import root
from algo_royale.research import artifacts

ASKED = [
    "run-backtest", "--symbols=AAPL,MSFT", "--strategies=RSIStrategy", "--portfolios=EqualWeightPortfolioStrategy",
    "--windows=2", "--trials=4", "--portfolio-trials=1", "--workers=1",
]  # fmt: skip


def ask(home: Path, *words: str) -> Result:
    return CliRunner().invoke(root, ["--home", str(home), *words])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of one small run, never to be changed."""
    home = tmp_path_factory.mktemp("artifacts")
    done = ask(home, *ASKED)
    assert done.exit_code == 0, done.output
    return home


@pytest.fixture
def home(run: Path, tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    shutil.copytree(run, tmp_path / "home")
    return tmp_path / "home"


def place(home: Path, key: str) -> Path:
    return home / "dev_integration" / "artifacts" / key


def test_list_has_every_unit_with_its_verdict(run: Path) -> None:
    found = json.loads(ask(run, "artifacts", "list", "--json").stdout)
    rows = {row["unit"]: row for row in found["units"]}

    manifest = artifacts.read(place(run, "run_manifest.json"))
    assert set(rows) == set(manifest["units"]) and len(rows) == 12
    summary = artifacts.read(place(run, "signal/AAPL/summary_result.json"))
    shown = rows["signal/AAPL/summary_result.json"]
    assert (shown["is_viable"], shown["score"]) == (summary["is_viable"], summary["viability_score"])
    only = ask(run, "artifacts", "list", "--stage", "signal/MSFT").stdout.splitlines()
    assert len(only) == 1 + 4 + 1 and all("MSFT" in line for line in only[1:-1])
    assert ask(run, "artifacts", "list", "--status", "failed").stdout.splitlines()[-1] == "no unit"


def test_show_tells_checks_and_passport_of_a_verdict_and_measures_of_a_search(run: Path) -> None:
    path = place(run, "signal/MSFT/summary_result.json")
    document, text = artifacts.read(path), ask(run, "artifacts", "show", str(path)).stdout

    for check in document["checks"]:
        assert check["name"] in text
    assert f"n_trials_independent\t{document['passport']['n_trials_independent']:.3f}" in text
    assert json.loads(ask(run, "artifacts", "show", str(path), "--json").stdout) == document
    search = next(path.parent.rglob("optimization_result.json"))
    assert "profit_factor" in ask(run, "artifacts", "show", str(search)).stdout
    assert "holdout_reads\t0" in ask(run, "artifacts", "show", str(place(run, "run_manifest.json"))).stdout


def test_verify_passes_what_was_written_and_names_what_was_changed(home: Path) -> None:
    whole = ask(home, "artifacts", "verify")
    assert (whole.exit_code, whole.stdout) == (0, "13 files checked, all intact\n")
    path = place(home, "signal/AAPL/summary_result.json")
    path.write_bytes(path.read_bytes().replace(b'"viability_score": ', b'"viability_score":  '))

    broken, told = ask(home, "artifacts", "verify"), ask(home, "artifacts", "verify", "--json")

    assert broken.exit_code == told.exit_code == 1
    assert broken.stdout.startswith("signal/AAPL/summary_result.json: not spelled as it was written")
    assert broken.stdout.endswith("13 files checked, 1 differ\n")
    document: dict[str, Any] = json.loads(told.stdout)
    assert not document["intact"] and [d["file"] for d in document["differences"]] == [
        "signal/AAPL/summary_result.json"
    ]
    alone = ask(home, "artifacts", "verify", str(place(home, "signal/MSFT/summary_result.json")))
    assert (alone.exit_code, alone.stdout) == (0, "2 files checked, all intact\n")


@pytest.mark.parametrize(
    ("key", "workers", "units"),
    [("signal/MSFT/summary_result.json", "2", 4), ("portfolio/AAPL_MSFT/EqualWeightPortfolioStrategy/evaluation_result.json", "1", 7)],
)  # fmt: skip
def test_an_artifact_is_made_again_to_the_byte_from_the_file_alone(
    run: Path, tmp_path: Path, key: str, workers: str, units: int
) -> None:
    """The file lies where there is no manifest, in the home of nobody."""
    alone = tmp_path / "received.json"
    alone.write_bytes(place(run, key).read_bytes())

    done = ask(tmp_path, "artifacts", "reproduce", str(alone), "--workers", workers, "--json")

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "file": str(alone),
        "identical": True,
        "units_computed": units,
        "differences": [],
    }
    assert [p.name for p in tmp_path.iterdir()] == ["received.json"], "nothing is left behind"


def test_an_artifact_that_was_changed_is_not_the_one_that_is_made_again(home: Path) -> None:
    path = next(place(home, "signal/MSFT").rglob("optimization_result.json"))
    path.write_bytes(path.read_bytes().replace(b'"recorded": 4', b'"recorded": 5'))

    done = ask(home, "artifacts", "reproduce", str(path), "--workers", "1")

    assert done.exit_code == 1
    assert "optimization.trials.recorded was 5, is 4" in done.stdout and "differs" in done.stdout


def test_what_cannot_be_made_again_says_why_in_one_line(home: Path, tmp_path: Path) -> None:
    path, manifest = place(home, "signal/MSFT/summary_result.json"), place(home, "run_manifest.json")
    lean = tmp_path / "bars"
    lean.mkdir()
    rows = [
        "timestamp,open,high,low,close,volume",
        *(f"{year}-01-{day:02d},1,1,1,1,1" for year in range(2000, 2014) for day in (3, 4)),
    ]
    (lean / "MSFT.csv").write_text("\n".join(rows))

    other = ask(home, "artifacts", "reproduce", str(path), "--data", str(lean))
    assert other.exit_code == 1 and len((other.stdout + other.stderr).splitlines()) <= 2, other.output
    for words in (["reproduce", str(manifest)], ["verify", str(tmp_path)], ["show", str(lean / "MSFT.csv")]):
        wrong = ask(home, "artifacts", *words)
        assert wrong.exit_code == 1 and wrong.stderr.startswith("error: ") and len(wrong.stderr.splitlines()) == 1


def test_final_judges_the_viable_plan_on_the_held_back_year_and_counts_each_look(home: Path) -> None:
    """The portfolio of one viable symbol; what the twin of the trader would do in its own way."""
    first = ask(home, "final", "--json")
    assert first.exit_code == 0, first.output
    found: dict[str, Any] = json.loads(first.stdout)
    manifest = artifacts.read(place(home, "run_manifest.json"))

    assert manifest["holdout_reads"] == found["holdout_reads"] == 1 and not found["contaminated"]
    assert found["holdout"]["start"] == manifest["holdout_start"] == "2012-03-02"
    assert found["holdout"]["end"] == manifest["end"] == "2013-03-01"
    assert found["holdout"]["n_sessions"] == 250
    assert found == artifacts.read(place(home, "final_result.json"), "final_result")
    summary = artifacts.read(place(home, "portfolio/AAPL_MSFT/summary_result.json"))
    assert found["out_of_sample"]["sharpe_ratio"] == summary["oos"]["sharpe_ratio"]
    assert ask(home, "artifacts", "verify").exit_code == 0, "a look changes no result"

    again = ask(home, "final")

    assert again.exit_code == 0 and "CONTAMINATED: this range has been looked at 2 times" in again.stdout
    assert artifacts.read(place(home, "final_result.json"))["contaminated"] is True
    strict = ask(home, "--env", "prod_paper", "final")
    assert strict.exit_code == 1 and strict.stderr.startswith("error: ")
