"""`artifacts list|show|verify|reproduce`: what a backtest left behind, whether it is intact, whether it can be made again.
`final`: how it does on the range that was held back."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from algo_royale.app.cli.strategies import load_own
from algo_royale.errors import ArtifactError, BadInput

if TYPE_CHECKING:
    from algo_royale.app.cli import Settings
    from algo_royale.research.plan import Plan, ResearchConfig

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
PASSPORT = (
    ("psr", "probability that the Sharpe ratio is above 0"),
    ("deflated_sharpe", "above the best of the strategies compared"),
    ("deflated_sharpe_trials", "above the luckiest of all trials"),
    ("n_trials", "trials, of all windows and strategies"),
    ("n_trials_independent", "independent trials they amount to"),
    ("min_track_record", "sessions needed for 95 %"),
    ("n_sessions", "sessions there are"),
    ("pbo", "probability of overfitting, choice of strategy"),
    ("pbo_search", "probability of overfitting, choice of parameters"),
    ("degradation", "Sharpe ratio lost out of sample"),
    ("double_costs_total_return", "return at twice the costs"),
    ("double_costs_sharpe_ratio", "Sharpe ratio at twice the costs"),
    ("plateau", "neighbouring parameters that keep half"),
)


@click.group("artifacts")
def artifacts_group() -> None:
    """Backtest results: list and read them, check that they are intact, make them again.

    \b
    Examples:
      algo-royale artifacts list
      algo-royale artifacts verify
      algo-royale artifacts reproduce var/dev_integration/artifacts/signal/AAPL/summary_result.json
    """


def _root(settings: "Settings", run: Path | None) -> Path:
    return run or settings.directory / "artifacts"


# --- list ----------------------------------------------------------------------------------------------------------------


@artifacts_group.command("list")
@click.argument("run", required=False, type=FOLDER)
@click.option("--stage", help="Only files below this folder, e.g. signal/AAPL or portfolio.")
@click.option("--status", help="Only units with this status, e.g. failed or pending.")
@click.pass_obj
def list_command(settings: "Settings", run: Path | None, stage: str | None, status: str | None) -> None:
    """List the units of a run with what became of each, and the verdicts.

    RUN is a folder of artifacts; left out, the last backtest of this environment.

    \b
    Examples:
      algo-royale artifacts list
      algo-royale artifacts list --stage signal/AAPL --json
      algo-royale artifacts list --status failed
    """
    from algo_royale.app.cli.messages import print_json, print_table
    from algo_royale.research import artifacts

    root = _root(settings, run)
    manifest = artifacts.read(root / artifacts.MANIFEST, "run_manifest")
    rows = []
    for key, unit in sorted(manifest["units"].items()):
        below = stage is None or key == stage or key.startswith(stage.rstrip("/") + "/")
        if below and status in (None, unit["status"]):
            rows.append({"unit": key, **_outline(root / key, unit)})
    if settings.json:
        print_json({"root": str(root), "units": rows})
        return
    shown = [
        (row["unit"], row["status"], _yes(row["is_viable"]), _cell(row["score"]), _cell(row["sharpe_ratio"]))
        for row in rows
    ]
    print_table(("unit", "status", "viable", "score", "sharpe"), shown)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    click.echo(", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no unit")


def _outline(path: Path, unit: Mapping[str, Any]) -> dict[str, Any]:
    """Status, verdict and the Sharpe ratio of the test sessions of one unit."""
    from algo_royale.research import artifacts, audit

    out: dict[str, Any] = {"status": unit["status"], "is_viable": None, "score": None, "sharpe_ratio": None}
    if unit["status"] in audit.DONE:
        try:
            document = artifacts.read(path)
        except ArtifactError:
            return out | {"status": "missing or unreadable"}
        measured = document["oos"] if "oos" in document else document["test"]["metrics"]
        out |= {
            "is_viable": document.get("is_viable"), "score": document.get("viability_score"),
            "sharpe_ratio": measured["sharpe_ratio"],
        }  # fmt: skip
    return out | ({"error": unit["error"]} if "error" in unit else {})


def _yes(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


# --- show ----------------------------------------------------------------------------------------------------------------


@artifacts_group.command("show")
@click.argument("file", type=FILE)
@click.pass_obj
def show_command(settings: "Settings", file: Path) -> None:
    """Show one artifact as tables: what was made, its measures, checks and passport.

    \b
    Examples:
      algo-royale artifacts show var/dev_integration/artifacts/signal/AAPL/summary_result.json
    """
    from algo_royale.app.cli.messages import print_json
    from algo_royale.research import artifacts

    document = artifacts.read(file)
    if settings.json:
        print_json(document)
    elif document["kind"] == "run_manifest":
        _show_manifest(document)
    else:
        _show(document)


def _show_manifest(document: Mapping[str, Any]) -> None:
    from algo_royale.app.cli.messages import print_table

    names = ("timeframe", "start", "end", "holdout_start", "holdout_reads", "seed", "code_version", "data_fingerprint")
    rows = [("symbols", ", ".join(document["symbols"])), ("windows", str(len(document["windows"])))]
    print_table(("run", ""), [*rows, *((name, str(document[name])) for name in names)])


def _show(document: Mapping[str, Any]) -> None:
    from algo_royale.app.cli.messages import print_table
    from algo_royale.research import audit

    meta, searched = audit.meta_of(document), "optimization" in document
    of = document["symbol"] if "symbol" in document else ", ".join(document["symbols"])
    rows = [("of", of), ("strategy", document["strategy"])]
    if searched:
        window = document["window"]
        rows += [("train", f"{window['train_start']} .. {window['train_end']}")]
        rows += [("test", f"{window['test_start']} .. {window['test_end']}"), ("status", document["status"])]
    else:
        rows += [("viable", f"{_yes(document['is_viable'])}, score {document['viability_score']:.2f}")]
    rows += [("trials", str(meta["n_trials"])), ("made", f"{meta['created_at']} by {meta['code_version']}")]
    print_table((document["kind"].replace("_", " "), ""), rows)
    params = document["optimization"]["best_params"] if searched else document["best_params"]
    click.echo(f"\nparameters\n  {json.dumps(params, sort_keys=True)}\n")
    if searched:
        train, test = document["optimization"]["metrics"] or {}, document["test"]["metrics"]
        print_table(("measure", "train", "test"), [(n, _cell(train.get(n)), _cell(v)) for n, v in sorted(test.items())])
        return
    print_table(("check", "found", "wanted", "passed", ""), [_check(row) for row in document["checks"]])
    click.echo("")
    block = document["passport"]
    print_table(("passport", "", "meaning"), [(name, _cell(block[name]), means) for name, means in PASSPORT])


def _check(row: Mapping[str, Any]) -> tuple[str, ...]:
    wanted = f"{row['op']} {row['threshold']:g}"
    return row["name"], _cell(row["value"]), wanted, _yes(row["passed"]), "must pass" if row["hard"] else ""


# --- verify --------------------------------------------------------------------------------------------------------------


@artifacts_group.command("verify")
@click.argument("path", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--data", help="Compare with the bars of this folder (or 'bundled') instead of those the run read.")
@click.pass_obj
def verify_command(settings: "Settings", path: Path | None, data: str | None) -> int:
    """Check results against their digests, their manifest, the schema, the bars they were made from, and this program.

    PATH is a folder of artifacts or one of its files; left out, the last backtest of this environment. Exit code 1 if anything
    differs; each difference is named. Files of earlier runs that the manifest does not know are counted and no difference.

    \b
    Examples:
      algo-royale artifacts verify
      algo-royale artifacts verify ./var/dev_integration/artifacts --json
    """
    from algo_royale.app.cli.messages import print_json
    from algo_royale.research import audit

    root, only = _root(settings, path), None
    if path is not None and path.is_file():
        above = audit.manifest_above(path)
        if above is None:
            raise BadInput(f"{path} lies below no run_manifest.json, so there is nothing to compare it with")
        root = above[0]
        only = path.resolve().relative_to(root).as_posix()
    _own_strategies(settings, root)
    found = audit.verify(root, data, only=only if only != "run_manifest.json" else None)
    if settings.json:
        print_json(
            {
                "root": str(root), "checked": found.checked, "intact": not found.differences,
                "differences": [{"file": d.file, "what": d.what} for d in found.differences], "left": list(found.left),
            }
        )  # fmt: skip
    else:
        for difference in found.differences:
            click.echo(f"{difference.file}: {' '.join(difference.what.split())}")
        if found.left:
            click.echo(f"{len(found.left)} files of earlier runs, which the manifest does not know")
        bad = len({d.file for d in found.differences})
        click.echo(f"{found.checked} files checked, " + (f"{bad} differ" if bad else "all intact"))
    return 1 if found.differences else 0


# --- reproduce -----------------------------------------------------------------------------------------------------------


@artifacts_group.command("reproduce")
@click.argument("file", type=FILE)
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Worker processes; 0 takes one per core.")
@click.option("--data", help="Folder of the bars (or 'bundled'); default where the run of the file found them.")
@click.pass_obj
def reproduce_command(settings: "Settings", file: Path, workers: int, data: str | None) -> int:
    """Compute one artifact again, with everything it depends on, in a temporary folder, and compare byte for byte.

    The configuration is in the file. Only when and how long (`created_at`, `run_time_sec`) may differ; everything else that
    does is named, and the exit code is 1. The number of workers makes no difference.

    \b
    Examples:
      algo-royale artifacts reproduce var/dev_integration/artifacts/signal/AAPL/RSIStrategy/evaluation_result.json
      algo-royale artifacts reproduce summary_result.json --data ./bars --workers 4
    """
    from algo_royale.app.cli.messages import print_json
    from algo_royale.research import artifacts, audit

    document = artifacts.read(file)
    if document["kind"] not in audit.STAGE_OF:
        raise BadInput(f"{file} is a {document['kind']}; give one of the artifacts that it lists")
    above = audit.manifest_above(file)
    source = data or (above[1]["settings"]["data"] if above else "bundled")
    own = _own_strategies(settings, above[0] if above else None)
    with tempfile.TemporaryDirectory(prefix="algo-royale-") as folder:
        config = replace(audit.recipe_config(document, Path(folder), source), strategy_path=own)
        differences, computed = _again(settings, document, config, file, workers or os.cpu_count() or 1)
    if settings.json:
        print_json(
            {"file": str(file), "identical": not differences, "units_computed": computed, "differences": differences}
        )
    else:
        for what in differences:
            click.echo(f"{file}: {what}")
        click.echo(f"{computed} units computed again: " + ("differs" if differences else "identical but for the clock"))
    return 1 if differences else 0


def _own_strategies(settings: "Settings", root: Path | None) -> tuple[str, ...]:
    """Load the user's own strategies of a run, from where the configuration or else its manifest has them."""
    from algo_royale.research import artifacts

    manifest = root / artifacts.MANIFEST if root else None
    known = artifacts.read(manifest).get("settings", {}) if manifest and manifest.exists() else {}
    paths = settings.config.research.strategy_path or tuple(known.get("strategy_path", ()))
    load_own(paths)
    return paths


def _again(
    settings: "Settings", document: Mapping[str, Any], config: "ResearchConfig", file: Path, workers: int
) -> tuple[Sequence[str], int]:
    """What differs, and how many units were computed to find out."""
    from algo_royale.research import audit
    from algo_royale.research import plan as planning

    meta, key = audit.meta_of(document), audit.key_of(document)
    plan = planning.plan(config)
    units = {unit.key: unit for unit in plan.units}
    if key not in units:
        return [f"its recipe plans no {key}: the bars do not reach over it, or the file was renamed inside"], 0
    unit = units[key]
    if unit.data_fingerprint != meta["data_fingerprint"]:
        now, then = unit.data_fingerprint[:12], meta["data_fingerprint"][:12]
        return [
            f"made from other bars: those in {config.data!r} have fingerprint {now}, it says {then}; give --data"
        ], 0
    needed = audit.closure(plan, key)
    _compute(settings, replace(plan, units=needed), config, min(workers, len(needed)))
    return audit.compare(file, unit.path(config)), len(needed)


def _compute(settings: "Settings", plan: "Plan", config: "ResearchConfig", workers: int) -> None:
    """Run the plan as run-backtest does. Raises ArtifactError if a unit fails or the run is interrupted."""
    from algo_royale.app.backtest import run_backtest

    shown = [0]

    def progressed(progress: Any) -> None:
        quarter = progress.done * 4 // max(1, progress.planned)
        if quarter > shown[0] and settings.verbosity >= 0:
            shown[0] = quarter
            click.echo(f"{progress.done} of {progress.planned} units", err=True)

    outcome = run_backtest(
        plan, config, workers=workers, on_progress=progressed, on_interrupt=lambda: None, fresh=False
    )  # fmt: skip
    failures = outcome.progress.failures
    if failures:
        key, error = sorted(failures.items())[0]
        raise ArtifactError(f"{key} could not be computed again: {error.strip().splitlines()[-1]}")
    if outcome.progress.done < outcome.progress.planned:
        raise ArtifactError(f"ended with {outcome.progress.done} of {outcome.progress.planned} units computed again")


# --- the one look at what was held back ----------------------------------------------------------------------------------


@click.command("final")
@click.option("--data", help="Folder of the bars (or 'bundled'); default where the backtest found them.")
@click.pass_obj
def final_command(settings: "Settings", data: str | None) -> None:
    """Judge what the last backtest found viable on the range that it held back. Look once.

    Every look is counted in run_manifest.json; after the first one the range is contaminated, because what is changed from
    then on is changed by somebody who has seen it. The result is kept as final_result.json beside the artifacts.

    \b
    Examples:
      algo-royale final
      algo-royale --env prod_paper final --json
    """
    from algo_royale.app.backtest import iso
    from algo_royale.app.cli.messages import print_json
    from algo_royale.app.lock import single_instance
    from algo_royale.clock import WallClock
    from algo_royale.research import artifacts, holdout

    root = settings.directory / "artifacts"
    own = _own_strategies(settings, root if (root / artifacts.MANIFEST).is_file() else None)
    with single_instance(settings.directory, "run-backtest"):
        found = holdout.final(root, created_at=iso(WallClock().now_ns()), data=data, strategy_path=own)
    if settings.json:
        print_json(found)
    else:
        _show_final(found)


def _show_final(found: Mapping[str, Any]) -> None:
    from algo_royale.app.cli.messages import print_table
    from algo_royale.research.holdout import COMPARED

    span, portfolio = found["holdout"], found["portfolio"]
    click.echo(
        f"held back: {span['start']} .. {span['end']}, {span['n_sessions']} sessions; portfolio {found['strategy']}\n"
    )
    before, after = found["out_of_sample"], portfolio["metrics"]
    rows = [(name, _cell(before[name]), _cell(after[name])) for name in COMPARED]
    print_table(("portfolio", "out of sample", "held back"), [*rows, ("psr", "", _cell(after["psr"]))])
    click.echo(f"holding the same symbols in equal parts: {portfolio['benchmark_return']:+.1%}\n")
    print_table(
        ("symbol", "strategy", "return", "held", "sharpe", "trades"),
        [
            (
                symbol, one["strategy"], f"{one['metrics']['total_return']:+.1%}", f"{one['benchmark_return']:+.1%}",
                _cell(one["metrics"]["sharpe_ratio"]), str(one["metrics"]["num_trades"]),
            )
            for symbol, one in sorted(found["signals"].items())
        ],
    )  # fmt: skip
    if found["contaminated"]:
        click.echo(
            f"\nCONTAMINATED: this range has been looked at {found['holdout_reads']} times. Judge on later data, or hold another"
            " range back with --holdout."
        )
