"""What kept a strategy out of the market for a whole range, in words: which condition never held, and how far it was from it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from algo_royale.features import FeatureCache, Program
from algo_royale.market import Bars, FloatArray, Timeframe
from algo_royale.strategies import build
from algo_royale.strategies.conditions import Condition

FAR = 1e4  # times what was seen: where a threshold is looked for


def why(bars: Bars, n: int, name: str, params: Mapping[str, Any], timeframe: Timeframe) -> str:
    """Of a strategy that never entered on the last `n` of `bars`: what its entries lacked, and what its gates let through."""
    strategy = build(name, params, timeframe)
    entries = [c for slot, c in strategy.conditions if slot == "entry"]
    if strategy.logic and strategy.logic.entry:
        entries.append(strategy.logic.entry)
    gates = [c for slot, c in strategy.conditions if slot in ("trend", "filter")]
    with np.errstate(all="ignore"):
        values = Program(f for c in (*entries, *gates) for f in c.inputs.values()).run_cached(FeatureCache(bars))
        held = {c.name: c.verdicts(values, len(bars))[-n:] for c in (*entries, *gates)}
        parts = [
            f"{c.name} held on {int(held[c.name].sum())} of {n} bars" if held[c.name].any() else never(c, values, n)
            for c in entries
        ]
    if any(held[c.name].any() for c in entries):
        parts += [f"{c.name} allowed it on {int(held[c.name].sum())}" for c in gates]
        entered = np.logical_or.reduce([held[c.name] for c in entries])
        together = int(np.logical_and.reduce([entered, *(held[c.name] for c in gates)]).sum())
        parts += [f"all at once on {together}"] if gates else []
    return "; ".join(parts)


def never(condition: Condition, values: Mapping[str, FloatArray], n: int) -> str:
    """Why a condition held on none of the last `n` bars: the threshold that was not reached and the nearest that came to it."""
    names = [label.replace("_", " ") for label in condition.inputs]
    seen = np.array([values[feature.key][-n:] for feature in condition.inputs.values()], np.float64)
    seen = seen[:, np.isfinite(seen).all(axis=0)]
    if not seen.size:
        return f"{condition.name} had nothing to look at: its inputs need a longer history"
    text = None
    if len(names) == 3 and names[2].startswith("previous "):
        up = names[2] == f"previous {names[0]} - {names[1]}"
        text = f"{names[0]} never crossed {'above' if up else 'below'} {names[1]}"
    elif len(names) == 1:
        text = _level(condition, names[0], seen[0])
    elif len(names) == 2 and (seen[1] > 0.0).all():
        text = _ratio(condition, names, seen)
    return f"{text}, so {condition.name} never held" if text else f"{condition.name} held on none of {n} bars"


def _level(condition: Condition, name: str, seen: FloatArray) -> str | None:
    """Of a test of one value against a fixed one."""
    found = _limit(lambda x: bool(condition.test(np.array([x]))[0]), seen)
    if found is None:
        return None
    above, limit = found
    if above:
        return f"{name} never rose above {limit:.4g} (its highest was {seen.max():.4g})"
    return f"{name} never fell below {limit:.4g} (its lowest was {seen.min():.4g})"


def _ratio(condition: Condition, names: Sequence[str], seen: FloatArray) -> str | None:
    """Of a test of one value against a multiple of another."""
    usual, ratios = float(np.median(seen[1])), seen[0] / seen[1]
    found = _limit(lambda x: bool(condition.test(np.array([x * usual]), np.array([usual]))[0]), ratios)
    if found is None:
        return None
    above, limit = found
    nearest = float(ratios.max() if above else ratios.min())
    times = "" if abs(limit - 1.0) < 1e-6 else f"{limit:.3g} times "
    reached = f"at {'most' if above else 'least'} {nearest:.4g} times" if times else f"nearest {nearest - 1.0:+.2%}"
    return f"{names[0]} never {'rose above' if above else 'fell below'} {times}{names[1]} ({reached})"


def _limit(holds: Any, seen: FloatArray) -> tuple[bool, float] | None:
    """(whether it holds above, from where on) of a test that held for none of the values seen; None if it has no one limit."""
    low, high = float(seen.min()), float(seen.max())
    far = FAR * max(abs(low), abs(high), 1e-6)
    up, down = holds(high + far), holds(low - far)
    if up == down:
        return None
    no, yes = (high, high + far) if up else (low, low - far)
    for _ in range(200):
        middle = 0.5 * (no + yes)
        if middle in (no, yes):
            break
        no, yes = (no, middle) if holds(middle) else (middle, yes)
    return up, yes
