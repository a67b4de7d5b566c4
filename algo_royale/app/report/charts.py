"""Charts as inline SVG and HTML, drawn here so that the page needs no script.

The lines stretch with the page (`preserveAspectRatio="none"`) while strokes and dots keep their width; everything written is
HTML beside the drawing, so it stays readable on a phone. Colours are classes, so that they follow the theme. Every x axis is
the number of the session, not the date: nothing is drawn where nothing traded.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from html import escape

import numpy as np

from algo_royale.app.report.findings import number, percent
from algo_royale.app.report.model import MONTHS, Subject, Trade, Walk, monthly
from algo_royale.market import FloatArray
from algo_royale.research.viability import Dimension, unit_value

W, H = 1000, 300  # user units of every drawing; its real size is the style sheet's
POINTS_MAX = 1000  # as many as there are pixels; of more points the extremes of each pixel pair are drawn
LABELS_MAX = 8
EDGE = 0.03  # of the width
TOOLTIPS_MAX = 60  # trades drawn one by one
TRADES_MAX = 1500  # trades drawn at all: more of them hide the price
MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Scale:
    """Values to user units, top down; `log` for growth."""

    def __init__(self, low: float, high: float, *, log: bool = False) -> None:
        low, high = (math.log(low), math.log(high)) if log else (low, high)
        room = (high - low) * 0.04 or max(abs(high), 1.0) * 0.05
        self.low, self.high, self.log = low - room, high + room, log

    def share(self, value: float) -> float:
        """0 at the top, 1 at the bottom."""
        return (self.high - (math.log(value) if self.log else value)) / (self.high - self.low)

    def y(self, values: FloatArray) -> FloatArray:
        found = np.log(values) if self.log else values
        return np.asarray(H * (self.high - found) / (self.high - self.low), np.float64)


def _fixed(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _path(y: FloatArray, n: int) -> str:
    """Path data of one value per session, broken at NaN, thinned to what a screen shows."""
    values = y.tolist()
    rows = list(range(len(values)))
    if len(values) > POINTS_MAX:
        width = 2 * len(values) // POINTS_MAX + 1
        kept = {0, len(values) - 1}
        for start in range(0, len(values), width):
            part = [i for i in rows[start : start + width] if math.isfinite(values[i])]
            kept |= {min(part, key=values.__getitem__), max(part, key=values.__getitem__)} if part else {start}
        rows = sorted(kept)
    out, pen = [], "M"
    for i in rows:
        if not math.isfinite(values[i]):
            pen = "M"
            continue
        out.append(f"{pen}{_fixed(x_of(i, n))} {_fixed(values[i])}")
        pen = "L"
    return "".join(out)


def x_of(session: float, n: int) -> float:
    """Where a session is, in user units."""
    return W * session / max(1, n - 1)


def _line(y: FloatArray, n: int, kind: str) -> str:
    return f'<path class="line {kind}" d="{_path(y, n)}"/>'


def _area(y: FloatArray, base: float, n: int, kind: str) -> str:
    return f'<path class="area {kind}" d="{_path(y, n)}L{W} {_fixed(base)}L0 {_fixed(base)}Z"/>'


def _plot(
    drawing: str, title: str, *, size: str, n: int, dates: Sequence[date], walks: Sequence[Walk] = (),
    ticks: Sequence[tuple[float, str]] = (), years: bool = True,
) -> str:  # fmt: skip
    """A frame around a drawing: bands of every other window, lines and labels of `ticks` (share of the height, text)."""
    bands = "".join(
        f'<rect class="band" x="{_fixed(x_of(w.first, n))}" y="0" width="{_fixed(x_of(w.last - w.first, n))}" height="{H}"/>'
        for w in walks[1::2]
    )
    lines = "".join(f'<path class="grid" d="M0 {_fixed(H * at)}H{W}"/>' for at, _ in ticks)
    labels = "".join(f'<span class="y" style="top:{_fixed(100 * at)}%">{escape(text)}</span>' for at, text in ticks)
    if years:
        labels += "".join(
            f'<span class="x{_edge(x_of(i, n) / W)}" style="left:{_fixed(x_of(i, n) / W * 100)}%">{text}</span>'
            for i, text in year_labels(dates)
        )
    return (
        f'<div class="plot {size}{"" if years else " bare"}"><svg viewBox="0 0 {W} {H}" preserveAspectRatio="none" role="img"'
        f' aria-label="{escape(title)}">{bands}{lines}{drawing}</svg>{labels}</div>'
    )


def _edge(place: float) -> str:
    """A class for a label that would stick out of its chart if it stood in the middle of its place."""
    return " begin" if place < EDGE else " end" if place > 1.0 - EDGE else ""


def year_labels(dates: Sequence[date]) -> list[tuple[int, str]]:
    """(session, year) where a year begins, no more of them than fit; without a turn of the year, months or the ends."""
    for form in ("%Y", "%Y-%m"):
        names = [day.strftime(form) for day in dates]
        turns = [i for i in range(1, len(names)) if names[i] != names[i - 1]]
        if len(turns) > 1:
            step = -(-len(turns) // LABELS_MAX)
            return [(i, names[i]) for i in turns[::step]]
    return [(i, dates[i].isoformat()) for i in (0, len(dates) - 1)][: len(dates)]


def nice(low: float, high: float, count: int = 4) -> list[float]:
    """Round values between `low` and `high`, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def growth_ticks(low: float, high: float) -> list[float]:
    """Round multiples of the start for a logarithmic axis."""
    if high / low < 3.0:
        return [1.0 + v for v in nice(low - 1.0, high - 1.0)]
    steps = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
    return [v for v in steps if low <= v <= high]


# --- a subject's charts --------------------------------------------------------------------------------------------------


def equity(subject: Subject) -> str:
    """Growth of 1 against buying and holding, logarithmic."""
    mine, held = (np.concatenate(([1.0], curve)) for curve in (subject.equity, subject.benchmark_equity))
    low, high = float(min(mine.min(), held.min())), float(max(mine.max(), held.max()))
    if low <= 0.0:
        return '<p class="quiet">The account was lost.</p>'
    scale, n = Scale(low, high, log=True), len(subject.dates)
    drawing = f'<path class="zero" d="M0 {_fixed(H * scale.share(1.0))}H{W}"/>'
    drawing += _line(scale.y(subject.benchmark_equity), n, "held") + _line(scale.y(subject.equity), n, "mine")
    ticks = [(scale.share(v), percent(v - 1.0, 0)) for v in growth_ticks(low, high)]
    title = f"{subject.name}: growth out of sample against buying and holding"
    return _plot(
        drawing, title, size="tall", n=n, dates=subject.dates, walks=subject.walks, ticks=ticks, years=False
    )  # fmt: skip


def falls(subject: Subject) -> str:
    """How far below the peak, at each session."""
    depth = [
        curve / np.maximum(np.maximum.accumulate(curve), 1.0) - 1.0
        for curve in (subject.equity, subject.benchmark_equity)
    ]
    low = float(min(depth[0].min(), depth[1].min()))
    scale, n = Scale(min(low, -0.01), 0.0), len(subject.dates)
    base = H * scale.share(0.0)
    drawing = _area(scale.y(depth[0]), base, n, "fall") + _line(scale.y(depth[1]), n, "held")
    ticks = [(scale.share(v), percent(v, 0)) for v in nice(low, 0.0, 3)]
    title = f"{subject.name}: distance below the last peak"
    return _plot(drawing, title, size="low", n=n, dates=subject.dates, walks=subject.walks, ticks=ticks)


def ribbon(subject: Subject) -> str:
    """A cell per test window, as wide as it is long: its return, and holding's below."""
    cells, n = [], max(1, len(subject.dates))
    strongest = max((abs(w.gain) for w in subject.walks), default=0.0) or 1.0
    for w in subject.walks:
        kind = "none" if not w.num_trades else "gain" if w.gain >= 0.0 else "loss"
        title = (
            f"{w.test_start} to {w.test_end}: {percent(w.gain)}, holding {percent(w.benchmark)}, {w.num_trades} trades"
        )
        cells.append(
            f'<div class="{kind}" style="flex:{(w.last - w.first) / n:.4f};--v:{0.12 + 0.6 * abs(w.gain) / strongest:.2f}"'
            f' title="{escape(title)}"><em>{w.test_start:%Y-%m}</em><b>{percent(w.gain) if w.num_trades else "cash"}</b>'
            f"<small>{percent(w.benchmark)}</small></div>"
        )
    return f'<div class="ribbon{" many" if len(cells) > 12 else ""}">{"".join(cells)}</div>'


def sharpe(subject: Subject, values: FloatArray) -> str | None:
    """The rolling Sharpe ratio; None if it is never defined."""
    seen = values[np.isfinite(values)]
    if not len(seen):
        return None
    low, high = min(0.0, float(seen.min())), max(0.0, float(seen.max()))
    scale, n = Scale(low, high), len(subject.dates)
    drawing = f'<path class="zero" d="M0 {_fixed(H * scale.share(0.0))}H{W}"/>' + _line(scale.y(values), n, "mine")
    ticks = [(scale.share(v), number(v, 0 if v == int(v) else 1)) for v in nice(low, high, 3)]
    title = f"{subject.name}: rolling Sharpe ratio"
    return _plot(drawing, title, size="low", n=n, dates=subject.dates, walks=subject.walks, ticks=ticks)


def price(subject: Subject) -> str:
    """Closing prices with every round trip drawn from its entry to its exit; a loss is dashed."""
    assert subject.price is not None
    low, high = float(subject.price.min()), float(subject.price.max())
    scale, n = Scale(low, high, log=True), len(subject.dates)
    drawing = _line(scale.y(subject.price), n, "price") + _trades(drawn(subject.trades), scale, n)
    shown = nice(low, high) if high / low < 3 else _price_ticks(low, high)
    ticks = [(scale.share(v), f"{v:,.0f}" if high >= 10 else f"{v:.2f}") for v in shown]
    title = f"{subject.name}: closing price and {len(subject.trades)} trades out of sample"
    return _plot(drawing, title, size="tall", n=n, dates=subject.dates, walks=subject.walks, ticks=ticks)


def drawn(trades: Sequence[Trade]) -> Sequence[Trade]:
    """The trades that a chart shows: all, or those that moved most."""
    if len(trades) <= TRADES_MAX:
        return trades
    kept = sorted(range(len(trades)), key=lambda i: (-abs(trades[i].gain), i))[:TRADES_MAX]
    return [trades[i] for i in sorted(kept)]


def _price_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def _trades(trades: Sequence[Trade], scale: Scale, n: int) -> str:
    """A line and two dots each; with a tooltip each as long as they are few, else one path for all of a kind."""
    if len(trades) <= TOOLTIPS_MAX:
        return "".join(
            f'<g class="trade {_kind(t)}"><title>{t.entered} to {t.exited}: {percent(t.gain)}</title>'
            f"{_trade_paths([t], scale, n)}</g>"
            for t in trades
        )
    groups = ((kind, [t for t in trades if _kind(t) == kind]) for kind in ("gain", "loss"))
    return "".join(f'<g class="trade {kind}">{_trade_paths(some, scale, n)}</g>' for kind, some in groups if some)


def _kind(trade: Trade) -> str:
    return "gain" if trade.net_pnl > 0.0 else "loss"


def _trade_paths(trades: Sequence[Trade], scale: Scale, n: int) -> str:
    lines, dots = [], []
    for t in trades:
        x1, x2 = (_fixed(x_of(at, n)) for at in (t.entry, t.exit))
        y1, y2 = (_fixed(H * min(1.0, max(0.0, scale.share(p)))) for p in (t.entry_price, t.exit_price))
        lines.append(f"M{x1} {y1}L{x2} {y2}")
        dots.append(f"M{x1} {y1}h0M{x2} {y2}h0")
    return f'<path d="{"".join(lines)}"/><path class="dot" d="{"".join(dots)}"/>'


PALETTE = 8
BINS_MAX = 400  # a share is the mean of so many parts of the record


def shares(subject: Subject) -> tuple[str, list[tuple[str, int, float]]]:
    """Stacked shares of equity, and its legend: (symbol, colour, mean). The smallest symbols become "others"."""
    assert subject.held is not None
    means = {name: float(share.mean()) for name, share in subject.held.items() if share.any()}
    order = sorted(means, key=lambda name: (-means[name], name))
    rows: list[tuple[str, FloatArray]] = [(name, subject.held[name]) for name in order[: PALETTE - 1]]
    if len(order) >= PALETTE:
        rows.append(("others", np.sum([subject.held[name] for name in order[PALETTE - 1 :]], axis=0)))
    n = len(subject.dates)
    edges = np.unique(np.linspace(0, n, min(n, BINS_MAX) + 1).astype(int))
    binned = [np.add.reduceat(share, edges[:-1]) / np.diff(edges) for _, share in rows]
    top = max(1.0, float(np.sum(binned, axis=0).max())) if rows else 1.0
    scale, below, parts = Scale(0.0, top), np.zeros(len(edges) - 1), []
    xs = [_fixed(W * edge / n) for edge in edges.tolist()]
    for index, ((name, _), share) in enumerate(zip(rows, binned, strict=True)):
        above = below + share
        outline = _steps(xs, scale.y(above)) + _steps(xs[::-1], scale.y(below)[::-1]).replace("M", "L")
        parts.append(f'<path class="area c{index}" d="{outline}Z"><title>{escape(name)}</title></path>')
        below = above
    ticks = [(scale.share(v), percent(v, 0, sign=False)) for v in (0.0, 0.5, 1.0)]
    title = "Portfolio: share of equity by symbol"
    drawn = _plot("".join(parts), title, size="mid", n=n, dates=subject.dates, walks=subject.walks, ticks=ticks)
    return drawn, [(name, index, float(share.mean())) for index, (name, share) in enumerate(rows)]


def _steps(xs: Sequence[str], y: FloatArray) -> str:
    """Path data of a value for each gap between two places."""
    parts = (f"V{_fixed(value)}H{x}" for x, value in zip(xs[1:], y.tolist(), strict=True))
    return f"M{xs[0]} {_fixed(float(y[0]))}{''.join(parts)}"


def spark(curve: FloatArray) -> str:
    """A small equity curve for a table."""
    values = np.concatenate(([1.0], curve))
    if values.min() <= 0.0 or len(values) < 3:
        return ""
    thin = values[np.unique(np.linspace(0, len(values) - 1, 80).astype(int))]
    scale = Scale(float(thin.min()), float(thin.max()), log=True)
    return (
        f'<svg class="spark" viewBox="0 0 {W} {H}" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="zero" d="M0 {_fixed(H * scale.share(1.0))}H{W}"/>{_line(scale.y(thin), len(thin), "mine")}</svg>'
    )


# --- tables that are charts ----------------------------------------------------------------------------------------------


def months(subject: Subject) -> str:
    """Returns by month; the colour of a tenth is the strongest."""
    head = "".join(f"<th>{name}</th>" for name in (*MONTH_NAMES, "Year"))
    rows = []
    for year, values in monthly(subject.dates, subject.returns).items():
        cells = "".join(_month(value, whole=index == MONTHS) for index, value in enumerate(values))
        rows.append(f"<tr><th>{year}</th>{cells}</tr>")
    return f'<table class="heat"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def costs(subject: Subject) -> str:
    """A bar per multiple of the costs, from zero to the return."""
    totals = [row.total_return for row in subject.costs]
    most = max(map(abs, totals), default=0.0) or 1.0
    rows = []
    for row in subject.costs:
        kind = "gain" if row.total_return > 0.0 else "loss"
        width = max(0.5, 100 * abs(row.total_return) / most)
        name = "none" if not row.multiple else "as in this run" if row.multiple == 1 else f"{row.multiple} times"
        rows.append(
            f'<tr><td>{name}</td><td class="bar"><i class="{kind}" style="width:{width:.1f}%"></i></td>'
            f"<td>{percent(row.total_return)}</td><td>{number(row.sharpe_ratio)}</td>"
            f"<td>{percent(row.max_drawdown, sign=False)}</td></tr>"
        )
    head = "<th>Costs</th><th></th><th>Return</th><th>Sharpe</th><th>Max drawdown</th>"
    return f'<table class="costs"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _month(value: float | None, *, whole: bool) -> str:
    if value is None:
        return "<td></td>"
    shown = f"{value * 100:.1f}".replace("-", "−")
    if shown.strip("−0.") == "":
        return f'<td class="{"sum " if whole else ""}flat">0</td>'
    strength = min(1.0, abs(value) / (0.3 if whole else 0.1))
    kind = "gain" if value > 0.0 else "loss"
    return f'<td class="{"sum " if whole else ""}{kind}" style="--v:{0.08 + 0.62 * strength:.2f}">{shown}</td>'


def parameters(subject: Subject) -> list[tuple[str, str, str]]:
    """(name, where in its range each window chose, the values in window order) of each dimension."""
    out = []
    points = [w.point for w in subject.walks]
    for dimension in subject.dimensions:
        dots, values = [], []
        for index, point in enumerate(points):
            if point is None:
                values.append("–")
                continue
            value = point[dimension.name]
            values.append(f"{value:.3g}" if isinstance(value, float) else str(value))
            at = _place(dimension, value)
            strength = 0.25 + 0.75 * (index + 1) / len(points)
            last = " last" if index == len(points) - 1 else ""
            title = f"{subject.walks[index].test_start}: {values[-1]}"
            dots.append(
                f'<i class="pick{last}" style="left:{at * 100:.1f}%;opacity:{strength:.2f}" title="{escape(title)}"></i>'
            )
        out.append((dimension.name, f'<div class="range">{"".join(dots)}</div>', " · ".join(values)))
    return out


def _place(dimension: Dimension, value: object) -> float:
    if dimension.kind == "categorical":
        return dimension.choices.index(value) / max(1, len(dimension.choices) - 1)  # type: ignore[no-any-return]
    return min(1.0, max(0.0, unit_value(dimension, value)))


def legend(rows: Sequence[tuple[str, str, str]]) -> str:
    """(class of the swatch, what it is, its figure)."""
    items = "".join(
        f'<li><i class="key {kind}"></i>{escape(text)}{f" <b>{escape(figure)}</b>" if figure else ""}</li>'
        for kind, text, figure in rows
    )
    return f'<ul class="legend">{items}</ul>'


def curve_legend(subject: Subject) -> str:
    held = "holding equal shares of the symbols" if subject.is_portfolio else f"holding {subject.name}"
    figures: Mapping[str, float | None] = subject.benchmark_figures
    return legend(
        [
            ("mine", "this strategy" if not subject.is_portfolio else "this portfolio",
             percent(float(subject.equity[-1]) - 1.0 if len(subject.equity) else 0.0)),
            ("held", held, percent(figures["total_return"])),
        ]
    )  # fmt: skip
