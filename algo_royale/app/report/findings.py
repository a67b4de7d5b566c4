"""What is wrong or doubtful about a run, why it matters, and what to do: from its figures alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from algo_royale.app.report.model import Run, Subject
from algo_royale.research import metrics
from algo_royale.research.viability import DEFAULT_CHECKS, Check, ViabilityConfig, judge
from algo_royale.strategies import space

PROBLEM, CAUTION, NOTE = "problem", "caution", "note"
LEVELS = (PROBLEM, CAUTION, NOTE)
SIGNS = {">": ">", ">=": "≥", "<=": "≤", "<": "<"}

# Where a figure begins to say something. Conventions rather than laws, which is why each finding shows its figure.
TRIALS_PER_DIMENSION = 10  # fewer trials leave most of a space unseen
CONFIDENCE = 0.95
COIN = 0.5
LOST_SHARE = 0.5  # of the in-sample Sharpe ratio
STEADY = 0.5  # param_consistency below: parameters wander over half their ranges
ONE_TRADE, ONE_WINDOW = 0.5, 0.75  # share of the whole profit
COST_SHARE = 0.25  # of the return before costs
IDLE = 0.4  # mean share of equity invested
ONE_SYMBOL = 0.6  # of what is invested
CUT_SHARE = 1 / 3  # of the trades
ALIKE_MAX = 3  # findings of one kind that are told one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`about` is a subject's name or "" for the run; `fact` has the figures, `advice` what to do. `kind` is the title of
    many such findings together."""

    level: str
    about: str
    title: str
    fact: str
    advice: str
    kind: str = ""


def percent(value: float | None, digits: int = 1, *, sign: bool = True) -> str:
    """A fraction as people read it; a dash where there is none."""
    if value is None or not np.isfinite(value):
        return "–"
    text = f"{abs(value) * 100:,.{digits}f}\u202f%"
    shown = float(f"{value * 100:.{digits}f}")
    return ("−" if shown < 0 else "+" if sign and shown > 0 else "") + text


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus; a dash where there is none."""
    if value is None or not np.isfinite(value):
        return "–"
    shown = float(f"{value:.{digits}f}")
    return ("−" if shown < 0 else "") + f"{abs(shown):,.{digits}f}"


def label(name: str) -> str:
    """A strategy's name without what every name ends in."""
    return name.removesuffix("PortfolioStrategy").removesuffix("Strategy")


def listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of the passport; `verdict` is "good", "fair", "poor" or "" where there is nothing to judge."""

    name: str
    value: str
    verdict: str
    meaning: str


def passport(subject: Subject) -> list[Entry]:
    """How far the result can be trusted, in one table: the artifact's passport in words."""
    document = subject.document
    found, lost, steady = document["passport"], document["degradation"], document["param_consistency"]
    record, n, total = found["min_track_record"], found["n_sessions"], document["oos"]["total_return"]
    luck, search = _odds_rows(found), found["pbo_search"]
    dear, plateau = found["double_costs_total_return"], found["plateau"]
    rows = [
        *luck,
        ("Minimum track record", f"{record:,} sessions" if record else "none",
         "poor" if record is None else "good" if record <= n else "fair" if record <= 2 * n else "poor",
         f"sessions needed for 95\u202f% confidence that the Sharpe ratio is above zero; there are {n:,}"),
        ("Overfitting by choosing the strategy", percent(found["pbo"], sign=False), _below(found["pbo"], COIN, 0.2),
         "how often the best strategy of one half of the test sessions is below the median in the other half (PBO by CSCV)"),
        ("Overfitting by searching", percent(search, sign=False), _below(search, COIN, 0.2),
         "the same of the parameters tried in training, mean of windows"),
        ("Sharpe ratio lost out of sample", _lost(lost.get("sharpe_ratio")), _kept(lost.get("sharpe_ratio")),
         "share of the in-sample mean of a window that did not carry over"),
        ("Growth lost out of sample", _lost(lost.get("cagr")), _kept(lost.get("cagr")), "the same for yearly growth"),
        ("Return at twice the costs", percent(dear),
         "poor" if dear <= 0.0 else "good" if dear > (1 - COST_SHARE) * total else "fair",
         f"it is {percent(total)} at the costs of this run"),
        ("Plateau", percent(plateau, 0, sign=False), _above(plateau, COIN, 0.8),
         "share of the neighbouring parameters that keep half of what the chosen ones reached in training, mean of windows"),
        ("Parameter consistency", number(steady), _above(steady, STEADY, 0.8),
         "1 if every window chose the same parameters, towards 0 if they lie anywhere"),
    ]  # fmt: skip
    return [Entry(name=name, value=value, verdict=verdict, meaning=why) for name, value, verdict, why in rows]


def _odds_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The Sharpe ratio against nothing, against the strategies tried, and against everything tried."""
    k, trials, alone = found["n_candidates"], found["n_trials"], found["n_trials_independent"]
    rows = [
        ("Probabilistic Sharpe ratio", "psr", "probability that the true Sharpe ratio is above zero"),
        ("Deflated by the strategies tried", "deflated_sharpe",
         f"the same against the best of {k} strategies, were all of them worthless: it would show"
         f" {number(_yearly(found['sr_benchmark']))} a year"),
        ("Deflated by every trial", "deflated_sharpe_trials",
         f"the same against the best of {trials:,} trials, which amount to {number(alone, 0)} independent ones: it would"
         f" show {number(_yearly(found['sr_benchmark_trials']))} a year"),
    ]  # fmt: skip
    return [
        (name, percent(found[key], sign=False), _above(found[key], COIN, CONFIDENCE), why) for name, key, why in rows
    ]


def _yearly(sharpe: float | None) -> float | None:
    return None if sharpe is None else sharpe * math.sqrt(metrics.SESSIONS_PER_YEAR)


def _lost(share: float | None) -> str:
    """Where it did better than in sample nothing was lost; how much better says little, for the base may be near zero."""
    return "none" if share is not None and share <= 0.0 else percent(share, 0, sign=False)


def _kept(share: float | None) -> str:
    return _below(share, LOST_SHARE, 0.25)


def _below(value: float | None, fair: float, good: float) -> str:
    return _above(None if value is None else -value, -fair, -good)


def _above(value: float | None, fair: float, good: float) -> str:
    return "" if value is None else "good" if value >= good else "fair" if value >= fair else "poor"


def findings(run: Run) -> list[Finding]:
    """Everything found, worst first, then the run before its portfolio before its symbols."""
    subjects = [*([run.portfolio] if run.portfolio else []), *run.symbols]
    parts = [_whole(run), *(_of(run, subject) for subject in subjects)]
    return sorted(chain.from_iterable(parts), key=lambda f: LEVELS.index(f.level))


def first(run: Run, found: Sequence[Finding]) -> list[Finding]:
    """What to look at first: what is about the run, and problems; where many symbols have the same one, said once."""
    groups: dict[str, list[Finding]] = {}
    for f in found:
        if f.about and f.level == PROBLEM and not (run.portfolio and f.about == run.portfolio.name):
            groups.setdefault(f.kind or f.title.partition(":")[0], []).append(f)
    many = {kind: some for kind, some in groups.items() if len(some) > ALIKE_MAX}
    said = {id(f) for some in many.values() for f in some}
    together = [
        Finding(
            level=PROBLEM, about="", title=f"{kind}: {len(some)} of {len(run.symbols)} symbols",
            fact=f"{listed([f.about for f in some], 12)}. The first of them: {some[0].fact}", advice=some[0].advice,
        )
        for kind, some in many.items()
    ]  # fmt: skip
    alone = [f for f in found if id(f) not in said and (not f.about or f.level == PROBLEM)]
    return sorted([*together, *alone], key=lambda f: LEVELS.index(f.level))


def _of(run: Run, subject: Subject) -> Iterator[Finding]:
    for check in (_silence, _odds, _against_holding, _concentration, _search, _costs, _at_the_end):
        yield from check(run, subject)
    if subject.is_portfolio:
        yield from _allocation(subject)


# --- the run -------------------------------------------------------------------------------------------------------------


def _whole(run: Run) -> Iterator[Finding]:
    units = run.manifest["units"]
    undone = sorted(key for key, unit in units.items() if unit["status"] in ("failed", "pending"))
    if undone:
        failed = [key for key in undone if units[key]["status"] == "failed"]
        yield Finding(
            level=PROBLEM, about="", title=f"{len(undone)} of {len(units)} units are not done",
            fact=f"{len(failed)} failed, {len(undone) - len(failed)} are pending; the first is {undone[0]}.",
            advice="Run the same run-backtest command again; finished units are kept.",
        )  # fmt: skip
    if run.missing:
        yield Finding(
            level=CAUTION, about="", title=f"No verdict on {listed(sorted(run.missing))}",
            fact="; ".join(f"{name}: {why}" for name, why in sorted(run.missing.items())) + ".",
            advice="Where data are short, take shorter --train and --test, or a longer history.",
        )  # fmt: skip
    if run.manifest["holdout_reads"] > 1:
        yield Finding(
            level=PROBLEM, about="", title="The held-back range is no longer unseen",
            fact=f"It has been read {run.manifest['holdout_reads']} times; choices made after the first look are not blind.",
            advice="Judge on later data, or hold another range back with --holdout.",
        )  # fmt: skip
    yield from _mild(run)
    yield from _short_search(run)


def _mild(run: Run) -> Iterator[Finding]:
    """Thresholds below the defaults, and what the defaults would say."""
    standard = {check.name: check for check in DEFAULT_CHECKS}
    milder = [c for c in run.config.viability.checks if c.name in standard and _milder(c, standard[c.name])]
    judged = [*run.symbols, *([run.portfolio] if run.portfolio else [])]
    viable = [subject for subject in judged if subject.document["is_viable"]]
    config, usual = run.config.viability, ViabilityConfig()
    asked = {check.name for check in config.checks}
    dropped = [name for name in usual.hard_checks if name not in asked]
    if not viable or not (milder or dropped or config.threshold < usual.threshold):
        return
    kept = []
    for subject in viable:
        values = subject.document["passport"] | {c["name"]: c["value"] for c in subject.document["checks"]}
        if judge(values, usual).is_viable:
            kept.append(subject.name)
    yield Finding(
        level=CAUTION if len(kept) < len(viable) else NOTE, about="",
        title=f"Mild thresholds: by the default ones {len(kept)} of {len(viable)} viable verdicts would stand",
        fact="Milder here: "
        + ", ".join(
            [f"{c.name} {SIGNS[c.op]} {c.threshold:g} (default {standard[c.name].threshold:g})" for c in milder]
            + [f"score {config.threshold:g} (default {usual.threshold:g})"] * (config.threshold < usual.threshold)
            + [f"{name} is not asked" for name in dropped]
        )
        + (f". By the defaults: {listed(kept)}." if kept else "."),
        advice="Set [viability] to the thresholds that you would trade real money on before you do.",
    )  # fmt: skip


def _milder(check: Check, standard: Check) -> bool:
    return check.threshold < standard.threshold if ">" in standard.op else check.threshold > standard.threshold


def _short_search(run: Run) -> Iterator[Finding]:
    sizes = {name: len(space(name, run.config.timeframe)) for name in run.config.strategies}
    largest = max(sizes, key=lambda name: (sizes[name], name))
    wanted = TRIALS_PER_DIMENSION * sizes[largest]
    if run.config.trials < wanted:
        yield Finding(
            level=NOTE if run.config.trials * 2 >= wanted else CAUTION, about="",
            title=f"A short search: {run.config.trials} trials a study",
            fact=f"{label(largest)} has {sizes[largest]} dimensions; most of its space was never tried.",
            advice=f"Run again with --trials {wanted} before believing or dismissing a strategy.",
        )  # fmt: skip


# --- a subject -----------------------------------------------------------------------------------------------------------


def _silence(run: Run, subject: Subject) -> Iterator[Finding]:
    silent, walks = [w for w in subject.walks if not w.num_trades], subject.walks
    if silent:
        unsearched = sum(not w.searched for w in silent)
        reasons: dict[str, list[str]] = {}
        for w in silent:
            reasons.setdefault(w.why or "nobody had a vote, or nobody bought", []).append(f"{w.test_start:%Y-%m}")
        facts = [f"From {listed(began)}: {why}." for why, began in reasons.items()]
        yield Finding(
            level=PROBLEM if len(silent) * 2 > len(walks) else CAUTION, about=subject.name,
            title=f"No trade in {len(silent)} of {len(walks)} windows",
            fact=" ".join(facts[:3]) + (f" And {len(facts) - 3} more such reasons." if len(facts) > 3 else ""),
            kind="No trade in some windows",
            advice="Train on longer windows (--train), or lower min_trades in [research]." if unsearched * 2 > len(silent)
            else "Its entry is too rare here: train on a range that knows such markets (--train), or let other strategies vote.",
        )  # fmt: skip
    document = subject.document
    if document["is_viable"] and document["best_params"] is None:
        yield Finding(
            level=PROBLEM, about=subject.name, title="Viable, but it cannot trade",
            fact=f"The latest window of {label(subject.strategy)} found no parameters, so there is nothing to trade with.",
            advice="Search longer with --trials, or lower min_trades in [research].",
        )  # fmt: skip


def _odds(run: Run, subject: Subject) -> Iterator[Finding]:
    oos, passed = subject.document["oos"], subject.document["passport"]
    deflated, record, n = oos["deflated_sharpe"], oos["min_track_record"], oos["n_sessions"]
    shown = None if deflated is None else math.floor(deflated * 1000) / 1000  # 0.9496 has not reached 0.95
    if deflated is not None and deflated < CONFIDENCE:
        yield Finding(
            level=PROBLEM if deflated < COIN else CAUTION, about=subject.name,
            title=f"It may be luck: deflated Sharpe ratio {number(shown, 3)}",
            fact="The probability that the true Sharpe ratio "
            + (f"beats the best of {oos['n_candidates']} worthless strategies" if oos["n_candidates"] > 1 else "is above zero")
            + f" is {percent(shown, sign=False)}; {percent(CONFIDENCE, 0, sign=False)} is the usual bar. Against the best of all"
            f" {passed['n_trials']:,} trials it is {percent(passed['deflated_sharpe_trials'], sign=False)}.",
            advice="Try fewer strategies, or wait for more sessions; paper trading adds them honestly.",
        )  # fmt: skip
    if record is None and oos["num_trades"]:
        yield Finding(
            level=PROBLEM, about=subject.name, title="No record could prove it: its Sharpe ratio is not positive",
            fact=f"Out of sample the Sharpe ratio is {number(oos['sharpe_ratio'])} over {n:,} sessions.",
            advice="Drop the symbol, or try another strategy for it (--strategies).",
        )  # fmt: skip
    elif record is not None and record > n:
        yield Finding(
            level=CAUTION, about=subject.name, title="The record is too short for its Sharpe ratio",
            fact=f"95\u202f% confidence needs {record:,} sessions; there are {n:,}.",
            advice="More windows (--windows, --start), or a strategy with steadier returns.",
        )  # fmt: skip


def _against_holding(run: Run, subject: Subject) -> Iterator[Finding]:
    oos, held = subject.document["oos"], subject.benchmark_figures
    total, other = oos["total_return"], held["total_return"]
    if other is None or total >= other:
        return
    mine, theirs = oos["sharpe_ratio"], held["sharpe_ratio"]
    worse = mine is None or theirs is None or mine < theirs
    yield Finding(
        level=CAUTION if worse else NOTE, about=subject.name,
        title="Holding did better" if worse else "Holding earned more, at a worse ratio",
        fact=f"{percent(total)} against {percent(other)} by buying and holding; Sharpe ratio {number(mine)} against"
        f" {number(theirs)}; deepest fall {percent(oos['max_drawdown'], sign=False)} against"
        f" {percent(held['max_drawdown'], sign=False)}.",
        advice="Worth it only if the smaller fall is what you want; otherwise hold." if worse
        else "Less money at less risk: compare at the risk that you would take.",
    )  # fmt: skip


def _concentration(run: Run, subject: Subject) -> Iterator[Finding]:
    logs = np.array([np.log1p(w.gain) for w in subject.walks if w.gain > -1.0])
    if len(logs) > 2 and logs.sum() > 0.0 and logs.max() > ONE_WINDOW * logs.sum():
        best = max(subject.walks, key=lambda w: w.gain)
        rest = float(np.expm1(logs.sum() - logs.max()))
        yield Finding(
            level=CAUTION, about=subject.name, title="One window made the result",
            fact=f"{best.test_start:%Y-%m} to {best.test_end:%Y-%m} returned {percent(best.gain)}; the other"
            f" {len(subject.walks) - 1} windows together {percent(rest)}.",
            advice="Ask what was special about that time, and whether it will come again.",
        )  # fmt: skip
    cut = [t for t in subject.trades if t.closed_by_end]
    if len(subject.trades) > 2 and len(cut) > CUT_SHARE * len(subject.trades):
        yield Finding(
            level=NOTE, about=subject.name, title="Windows end many of its trades",
            fact=f"{len(cut)} of {len(subject.trades)} trades were closed by the end of a window, not by the strategy.",
            advice="Longer test ranges (--test) let it come to its own exits.",
        )  # fmt: skip
    gains = np.array([t.net_pnl for t in subject.trades])
    if len(gains) > 2 and gains.sum() > 0.0 and gains.max() > ONE_TRADE * gains.sum():
        best_trade = max(subject.trades, key=lambda t: t.net_pnl)
        yield Finding(
            level=CAUTION, about=subject.name, title="One trade made most of the profit",
            fact=f"{best_trade.entered} to {best_trade.exited} returned {percent(best_trade.gain)}, which is"
            f" {percent(float(gains.max() / gains.sum()), 0, sign=False)} of the profit of {len(gains)} trades.",
            advice="Take that trade away in your mind before you size this one.",
        )  # fmt: skip


def _search(run: Run, subject: Subject) -> Iterator[Finding]:
    lost = subject.document["degradation"].get("sharpe_ratio")
    before, after = (subject.document[part].get("sharpe_ratio", {}).get("mean") for part in ("in_sample", "summary"))
    if lost is not None and lost > LOST_SHARE:
        yield Finding(
            level=CAUTION, about=subject.name, title="Fitted better than it works",
            fact=f"The mean Sharpe ratio of a window fell from {number(before)} in sample to {number(after)} out of sample:"
            f" {percent(lost, 0, sign=False)} was lost.",
            advice="Longer training, fewer dimensions, or more trades in each training range.",
        )  # fmt: skip
    passed = subject.document["passport"]
    searched, chosen, plateau = passed["pbo_search"], passed["pbo"], passed["plateau"]
    if searched is not None and searched > COIN:
        yield Finding(
            level=CAUTION, about=subject.name, title="The search picks what will disappoint",
            fact=f"In {percent(searched, 0, sign=False)} of the ways to halve the training sessions the best parameters of one"
            " half are below the median in the other.",
            advice="Prefer a strategy whose neighbouring parameters do equally well, or search less.",
        )  # fmt: skip
    if chosen is not None and chosen > COIN:
        yield Finding(
            level=CAUTION, about=subject.name, title="Which strategy is best is a matter of chance",
            fact=f"In {percent(chosen, 0, sign=False)} of the ways to halve the test sessions the best of"
            f" {passed['n_candidates']} strategies in one half is below the median in the other.",
            advice="Let several strategies vote rather than one, or compare fewer of them.",
        )  # fmt: skip
    if plateau is not None and plateau < COIN:
        yield Finding(
            level=CAUTION, about=subject.name, title="It stands on a peak, not on a plateau",
            fact=f"Of the parameters one step beside the chosen ones only {percent(plateau, 0, sign=False)} keep half of what"
            " those reached in training.",
            advice="A small change of the market is such a step: prefer a strategy with a plateau above 80\u202f%.",
        )  # fmt: skip
    steady = subject.document["param_consistency"]
    if steady is not None and steady < STEADY:
        yield Finding(
            level=NOTE, about=subject.name, title=f"Parameters wander: consistency {number(steady)}",
            fact="From window to window the chosen values lie far apart in their ranges (1 would be the same every time).",
            advice="There is no plateau to stand on: narrow the ranges to what you believe, or train longer.",
        )  # fmt: skip


def _costs(run: Run, subject: Subject) -> Iterator[Finding]:
    if not subject.equal:
        yield Finding(
            level=PROBLEM, about=subject.name, title="Its backtest comes out differently now",
            fact="The recorded parameters on the same bars give other returns than recorded, so the code has changed since.",
            advice="Run run-backtest again; its trades and costs are left out here.",
        )  # fmt: skip
    by = {row.multiple: row for row in subject.costs}
    if not by or by[0].total_return <= 0.0:
        return
    free, paid, double = (by[m].total_return for m in (0, 1, 2))
    if paid > 0.0 >= double:
        yield Finding(
            level=PROBLEM, about=subject.name, title="Twice the costs would eat it",
            fact=f"{percent(paid)} at the costs of this run, {percent(double)} at twice those.",
            advice="Trade less often, or be sure of your fills: real slippage is rarely the assumed one.",
        )  # fmt: skip
    elif free - paid > COST_SHARE * free:
        yield Finding(
            level=CAUTION, about=subject.name,
            title=f"Costs take {percent((free - paid) / free, 0, sign=False)} of the return",
            fact=f"{percent(free)} without costs, {percent(paid)} with them, {percent(double)} at twice those.",
            advice="Fewer, longer trades; confirmation or a cooldown in the strategy helps.",
        )  # fmt: skip


def _at_the_end(run: Run, subject: Subject) -> Iterator[Finding]:
    """How it left the last test range."""
    curve = subject.equity
    if not len(curve):
        return
    peak = max(1.0, float(curve.max()))
    fall = 1.0 - float(curve[-1]) / peak
    deepest, _ = metrics.drawdown(curve, 1.0)
    if fall > 0.05 and fall > 0.5 * deepest:
        day = subject.dates[int(curve.argmax())] if curve.max() > 1.0 else subject.dates[0]
        yield Finding(
            level=NOTE, about=subject.name, title=f"It ends {percent(fall, sign=False)} below its peak",
            fact=f"The peak was on {day}; the deepest fall of the whole record is {percent(deepest, sign=False)}.",
            advice="Whoever starts now starts inside a drawdown; expect it to be tested first.",
        )  # fmt: skip


def _allocation(subject: Subject) -> Iterator[Finding]:
    assert subject.held is not None
    total = np.sum(list(subject.held.values()), axis=0)
    mean = {name: float(share.mean()) for name, share in subject.held.items()}
    invested = float(total.mean()) if len(total) else 0.0
    if invested < IDLE:
        out = sorted(
            {s for w in subject.walks for s, names in (w.voters or {}).items() if not names}
        )  # fmt: skip
        yield Finding(
            level=CAUTION, about=subject.name, title=f"Mostly cash: {percent(invested, 0, sign=False)} invested on average",
            fact="The rest of the money earned nothing."
            + (f" Left out of at least one window, for nothing viable voted: {listed(out)}." if out else ""),
            advice="More symbols or strategies that are in the market more often; cash is also what keeps the drawdown small.",
        )  # fmt: skip
    if invested > 0.0 and len(mean) > 1:
        name = max(mean, key=lambda s: (mean[s], s))
        if mean[name] > ONE_SYMBOL * invested:
            yield Finding(
                level=CAUTION, about=subject.name, title=f"Mostly {name}",
                fact=f"{percent(mean[name] / invested, 0, sign=False)} of what was invested was in {name}.",
                advice="Set max_weight in [account] if that is not what you want.",
            )  # fmt: skip
