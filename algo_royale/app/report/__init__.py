"""The report of a backtest: one HTML page that needs no network, no script and no other file."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from algo_royale.app.report import charts, model
from algo_royale.app.report.findings import NOTE, SIGNS, Finding, findings, first, label, number, passport, percent
from algo_royale.app.report.model import DETAILED_MAX, Run, Subject
from algo_royale.research import artifacts

ROWS_MAX = 200  # trades and transactions listed, the latest
MISSING_MAX = 40  # symbols without a verdict, said one by one
VOTERS_MAX = 12  # symbols whose voters a window's row names
ROLLING = 126  # sessions, half a year
_FRACTIONS = frozenset(
    {"total_return", "win_rate", "max_drawdown", "cagr", "volatility", "exposure", "double_costs_total_return"}
)
_BARS = {"1Day": "Daily", "1Hour": "Hourly", "15Min": "Quarter-hour", "5Min": "Five-minute", "1Min": "Minute"}
_COUNTS = frozenset({"num_trades", "n_sessions", "max_drawdown_duration"})


def place(root: Path) -> Path:
    """Where the page of the artifacts below `root` goes if nobody says otherwise: beside them."""
    return root.parent / "report.html"


def write(run: Run, target: Path) -> int:
    """Write the report of a run to `target`; returns its size in bytes. The same artifacts and bars give the same bytes.

    Raises ArtifactError if the place cannot be written.
    """
    page = render(run).encode()
    artifacts.write(target, page)
    return len(page)


def render(run: Run) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("algo_royale.app", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "number": number, "label": label, "measure": measure}
    found = findings(run)
    detailed = [s for s in run.symbols if s.detailed][:DETAILED_MAX]
    sections = [_section(s, found) for s in [*([run.portfolio] if run.portfolio else []), *detailed]]
    return environment.get_template("page.html").render(
        run=run, manifest=run.manifest, config=run.config, ranked=list(run.symbols), detailed={s.name for s in detailed},
        sections=sections, spark=charts.spark, found=found, first=first(run, found), doubted=_doubts(run, found),
        trades_max=charts.TRADES_MAX, voters_max=VOTERS_MAX, missing_max=MISSING_MAX, missed=missed, wanted=wanted,
        costs=_costs(run),
        bars=_BARS[run.config.timeframe.value], states=_states(run.manifest["units"]), rows_max=ROWS_MAX,
    )  # fmt: skip


def _section(subject: Subject, found: list[Finding]) -> dict[str, Any]:
    """What the template shows of a subject."""
    rolling = min(ROLLING, len(subject.dates) // 3)
    held = charts.shares(subject) if subject.is_portfolio else None
    return {
        "subject": subject,
        "findings": [f for f in found if f.about == subject.name],
        "legend": charts.curve_legend(subject),
        "equity": charts.equity(subject),
        "falls": charts.falls(subject),
        "ribbon": charts.ribbon(subject),
        "months": charts.months(subject),
        "rolling": rolling,
        "sharpe": charts.sharpe(subject, model.rolling_sharpe(subject.returns, rolling)) if rolling > 20 else None,
        "drawdowns": model.worst_drawdowns(subject.dates, subject.equity),
        "price": charts.price(subject) if subject.price is not None and len(subject.dates) else None,
        "shares": held and held[0],
        "shares_legend": held
        and charts.legend([(f"c{i}", name, percent(mean, 0, sign=False)) for name, i, mean in held[1]]),
        "costs": charts.costs(subject),
        "breakeven": _breakeven(subject),
        "paid": sum(f["commission"] + f["fees"] + f["slippage_cost"] for f in subject.fills),
        "parameters": charts.parameters(subject),
        "passport": passport(subject),
    }


def _doubts(run: Run, found: list[Finding]) -> dict[str, list[str]]:
    """What speaks against each subject, whatever its checks say, for its row in the table."""
    out: dict[str, list[str]] = {s.name: [] for s in [*run.symbols, *([run.portfolio] if run.portfolio else [])]}
    for f in found:
        if f.about and f.level != NOTE:
            out[f.about].append(f.title[0].lower() + f.title[1:])
    return out


def _breakeven(subject: Subject) -> str:
    """How many times the costs a return bears, between the multiples that were computed."""
    rows = subject.costs
    for lower, upper in pairwise(rows):
        if lower.total_return > 0.0 >= upper.total_return:
            share = lower.total_return / (lower.total_return - upper.total_return)
            return f"The return is gone at about {number(lower.multiple + share * (upper.multiple - lower.multiple), 1)} times the costs."
    if rows and rows[0].total_return <= 0.0:
        return "It loses even without costs."
    return f"The return bears {rows[-1].multiple} times the costs." if rows else ""


def measure(name: str, value: float | None) -> str:
    """A measure by its name: a share in percent, a count whole, anything else with two digits."""
    if name in _COUNTS:
        return number(value, 0)
    return percent(value, sign=name.endswith(("total_return", "cagr"))) if name in _FRACTIONS else number(value)


def missed(document: Mapping[str, Any]) -> list[str]:
    """The checks that failed, each with its figure and what was wanted."""
    return [
        f"{check['name'].replace('_', ' ')} {measure(check['name'], check['value'])} ({wanted(check)} wanted)"
        for check in document["checks"]
        if not check["passed"]
    ]


def wanted(check: Mapping[str, Any]) -> str:
    """A check's bar, as in "≥ 0.50"."""
    return f"{SIGNS[check['op']]} {measure(check['name'], check['threshold']).lstrip('+')}"


def _costs(run: Run) -> list[str]:
    """The cost rules that are not zero, in words."""
    rules = run.config.costs
    named = (
        (rules.slippage_bps, "{} bp slippage"), (rules.commission_bps, "{} bp commission"),
        (rules.commission_per_share, "{} USD a share"), (rules.commission_min, "at least {} USD an order"),
        (rules.sec_fee_per_million, "SEC fee {} USD a million sold"), (rules.taf_per_share, "TAF {} USD a share sold"),
    )  # fmt: skip
    return [text.format(format(value.normalize(), "f")) for value, text in named if value] or ["no costs"]


def _states(units: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """How many units ended how, in words."""
    out: dict[str, int] = {}
    for unit in units.values():
        text = str(unit["status"]).replace("_", " ")
        out[text] = out.get(text, 0) + 1
    return dict(sorted(out.items(), key=lambda item: (-item[1], item[0])))
