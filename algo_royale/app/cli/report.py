"""`report`: a run's results as one HTML page."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from algo_royale.app.cli import Settings


@click.command("report")
@click.argument("run", required=False)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write it; default report.html beside the artifacts.",
    show_default=False,
)
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
@click.pass_obj
def report_command(settings: "Settings", run: str | None, output: Path | None, show: bool) -> None:
    """Write a backtest's results as one HTML page: verdicts and why, charts, odds, and what to do.

    RUN is the name of a backtest or a folder of artifacts; left out, the last one without a name. The page needs no network and no script;
    print it, send it, keep it.

    \b
    Examples:
      algo-royale report --open
      algo-royale report quick-look --open
      algo-royale report ./var/dev_integration/artifacts --output aapl.html
    """
    from algo_royale.app import report
    from algo_royale.app.cli.backtest import artifacts_root
    from algo_royale.app.report import model

    root = artifacts_root(settings.directory, None)
    if run is not None:
        root = Path(run) if os.sep in run or Path(run).is_dir() else artifacts_root(settings.directory, run)
    target = output or report.place(root)
    size = report.write(model.load(root), target)
    if settings.json:
        click.echo(json.dumps({"report": str(target), "bytes": size}, indent=2))
    else:
        click.echo(f"report: {target}")
    if show:
        click.launch(target.resolve().as_uri())
