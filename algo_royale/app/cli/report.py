"""`report`: a run's results as one HTML page."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from algo_royale.app.cli import Settings


@click.command("report")
@click.argument("run", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write it; default report.html beside the artifacts.",
    show_default=False,
)
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
@click.pass_obj
def report_command(settings: "Settings", run: Path | None, output: Path | None, show: bool) -> None:
    """Write a backtest's results as one HTML page: verdicts and why, charts, odds, and what to do.

    RUN is a folder of artifacts; left out, the last backtest of this environment. The page needs no network and no script;
    print it, send it, keep it.

    \b
    Examples:
      algo-royale report --open
      algo-royale report ./var/dev_integration/artifacts --output aapl.html
    """
    from algo_royale.app import report

    root = run or settings.directory / "artifacts"
    target = output or report.place(root)
    size = report.write(root, target)
    if settings.json:
        click.echo(json.dumps({"report": str(target), "bytes": size}, indent=2))
    else:
        click.echo(f"report: {target}")
    if show:
        click.launch(target.resolve().as_uri())
