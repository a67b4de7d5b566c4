"""From a strategy to one program of the compiled machine: its features, what its conditions test, and how they combine.

The tests of the conditions that come with the program are written over arrays, as `x - y > 0.0`. Here each is called once
with stand-ins that record what is asked of them, so that the whole strategy becomes a list of compiled operations. Where
that cannot be (a user's own function, an operation the machine does not know), `compile_strategy` gives None and the
strategy is computed array by array: the same bits, only slower.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from algo_royale.features import Feature, FeatureCache, column
from algo_royale.machine import FIRST_FLAG, NUMBER, Code, evaluate
from algo_royale.market import Bars, FloatArray, IntArray
from algo_royale.strategies.conditions import Condition

_COLUMNS = {"open": 0, "high": 1, "low": 2, "close": 3, "volume": 4}
_OURS = "algo_royale.strategies.conditions"  # whose tests are known to be pure
_ARITHMETIC = ("subtract", "scaled", "times", "larger")  # what a test may do with its inputs: NaN in, NaN out
_SUMS = ("sum", "mean")
_EMPTY, _NO_GAP = np.empty(0), np.full(1, np.nan)


class _Untraceable(Exception):
    """A test asks for something that the machine does not do."""


class _Node(NamedTuple):
    op: str
    inputs: tuple[int, ...] = ()
    n: int = 0
    level: float = 0.0
    feature: Feature | None = None  # what it is the value of, if it has a name


class _Traced:
    """Stands for the values of a node in a test, and records what is done with them."""

    __slots__ = ("at", "graph")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, graph: "Graph", at: int) -> None:
        self.graph, self.at = graph, at

    def _with(self, op: str, other: object) -> "_Traced":
        if isinstance(other, _Traced):
            return _Traced(self.graph, self.graph.node(op, (self.at, other.at)))
        if isinstance(other, int | float) and f"{op}_level" in NUMBER:
            return _Traced(self.graph, self.graph.node(f"{op}_level", (self.at,), level=float(other)))
        raise _Untraceable(op)

    def __gt__(self, other: object) -> "_Traced":
        return self._with("above", other)

    def __lt__(self, other: object) -> "_Traced":
        return self._with("below", other)

    def __ge__(self, other: object) -> "_Traced":
        return self._with("at_least", other)

    def __le__(self, other: object) -> "_Traced":
        return self._with("at_most", other)

    def __and__(self, other: object) -> "_Traced":
        return self._with("both", other)

    def __or__(self, other: object) -> "_Traced":
        return self._with("either", other)

    def __sub__(self, other: object) -> "_Traced":
        return self._with("subtract", other)

    def __mul__(self, other: object) -> "_Traced":
        if isinstance(other, int | float):
            return _Traced(self.graph, self.graph.node("scaled", (self.at,), level=float(other)))
        return self._with("times", other)

    __rmul__ = __mul__

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **_: Any) -> "_Traced":
        if ufunc is np.maximum and method == "__call__" and isinstance(inputs[0], _Traced):
            return inputs[0]._with("larger", inputs[1])
        raise _Untraceable(str(ufunc))

    def __bool__(self) -> bool:
        raise _Untraceable("a decision")


class Graph:
    """Operations that feed each other, each one once however often it is used."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = []
        self._index: dict[tuple[Any, ...], int] = {}
        self._features: dict[str, int] = {}
        self.asked: list[list[int]] = []  # the inputs of each condition, in order

    def node(
        self, op: str, inputs: tuple[int, ...] = (), n: int = 0, level: float = 0.0, feature: Feature | None = None
    ) -> int:
        key = (op, inputs, n, level)
        found = self._index.get(key)
        if found is None:
            found = self._index[key] = len(self.nodes)
            self.nodes.append(_Node(op, inputs, n, level, feature))
        elif feature is not None and self.nodes[found].feature is None:
            self.nodes[found] = self.nodes[found]._replace(feature=feature)
        return found

    def feature(self, feature: Feature) -> int:
        found = self._features.get(feature.key)
        if found is None:
            operation = feature.operation
            if feature.op in _COLUMNS:
                found = self.node("column", n=_COLUMNS[feature.op], feature=feature)
            elif operation is None:
                found = self.node("given " + feature.key, feature=feature)
            elif operation.number < 0:
                raise _Untraceable(feature.op)
            else:
                inputs = tuple([self.feature(x) for x in feature.inputs])
                found = self.node(feature.op, inputs, feature.n, feature.level, feature)
            self._features[feature.key] = found
        return found

    def condition(self, c: Condition) -> int:
        """Where it holds and every named input is a number."""
        if c.test.__module__ != _OURS:
            raise _Untraceable(c.name)
        inputs = [self.feature(f) for f in c.inputs.values()]
        self.asked.append(inputs)
        said: object = c.test(*(_Traced(self, at) for at in inputs))
        if not isinstance(said, _Traced):
            raise _Untraceable(c.name)
        root, implied = said.at, self._numbers(said.at, frozenset(inputs))
        for at in dict.fromkeys(inputs):
            if at not in implied:
                root = self.node("both", (root, self.node("number", (at,))))
        return root

    def _numbers(self, at: int, inputs: frozenset[int]) -> frozenset[int]:
        """The inputs that are surely numbers where the flag is true: NaN compares false and passes through arithmetic."""
        op, below = self.nodes[at].op, self.nodes[at].inputs
        if op == "both":
            return self._numbers(below[0], inputs) | self._numbers(below[1], inputs)
        if op == "either":
            return self._numbers(below[0], inputs) & self._numbers(below[1], inputs)
        found, waiting = [], list(below)
        while waiting:
            leaf = waiting.pop()
            if leaf in inputs:
                found.append(leaf)
            elif self.nodes[leaf].op in _ARITHMETIC:
                waiting += self.nodes[leaf].inputs
        return frozenset(found)

    def all_of(self, conditions: Iterable[Condition], op: str, none: str) -> int:
        """One flag of several conditions; `none` where there is none."""
        roots = [self.condition(c) for c in conditions]
        if not roots:
            return self.node(none)
        out = roots[0]
        for root in roots[1:]:
            out = self.node(op, (out, root))
        return out

    def crossed(self) -> "Graph":
        """The same graph where "was not above, and is" is one operation instead of five; it keeps no state of features."""
        out = Graph()
        out.nodes = self.nodes.copy()
        for at, node in enumerate(self.nodes):
            if node.op != "both":
                continue
            before, now = (self.nodes[x] for x in node.inputs)
            if (before.op, before.level, now.op, now.level) == ("at_most_level", 0.0, "above_level", 0.0):
                lagged, gap = self.nodes[before.inputs[0]], self.nodes[now.inputs[0]]
                if lagged.op == "lag" and lagged.n == 1 and lagged.inputs == now.inputs and gap.op == "subtract":
                    out.nodes[at] = _Node("cross_up", gap.inputs)
        return out

    def needed(self, roots: Iterable[int], given: Mapping[str, int]) -> list[int]:
        """Nodes that the roots are made from, in order, without what lies behind a given one."""
        wanted: set[int] = set()
        waiting = list(roots)
        while waiting:
            at = waiting.pop()
            if at not in wanted:
                wanted.add(at)
                feature = self.nodes[at].feature
                if feature is None or feature.key not in given:
                    waiting += self.nodes[at].inputs
        return self._ordered(wanted)

    def _ordered(self, wanted: Iterable[int]) -> list[int]:
        """Inputs before users; sums over windows of one thing side by side and the longest first, which serves the others."""
        places: dict[int, tuple[int, int]] = {}
        firsts: dict[int, int] = {}
        for at in sorted(wanted):
            node = self.nodes[at]
            sums = node.op in _SUMS
            places[at] = (firsts.setdefault(node.inputs[0], at), -node.n) if sums else (at, 0)
        return sorted(places, key=lambda at: (*places[at], at))

    def code(
        self, roots: Sequence[int], given: Mapping[str, int], made: Mapping[int, int], slots: Mapping[str, slice] | None
    ) -> tuple[Code, dict[int, int]]:
        """A program that computes the roots, and where each node is.

        `given`: rows that hold features, `made`: rows to put nodes into; with `slots` memories lie where these say, else
        they are the program's own and fresh.
        """
        place: dict[int, int] = {}
        rows: list[list[int]] = []
        levels, memories = [], []
        crosses: dict[tuple[int, ...], int] = {}  # the row of a cross, for the one the other way
        n_numbers = n_flags = end = 0
        for at in self.needed(roots, given):
            node = self.nodes[at]
            feature = node.feature
            if feature is not None and feature.key in given and at not in made:
                place[at] = -1 - given[feature.key]
                continue
            number = NUMBER[node.op]
            if at in made:
                place[at] = -1 - made[at]
            elif number >= FIRST_FLAG:
                place[at] = n_flags
                n_flags += 1
            else:
                place[at] = n_numbers
                n_numbers += 1
            low, high = end, end
            if slots is not None and feature is not None:
                low, high = slots[feature.key].start, slots[feature.key].stop
            elif node.op == "cross_up":
                other = crosses.get(node.inputs[::-1])
                if other is not None:
                    rows[other][0], rows[other][4] = NUMBER["cross_both_ways"], place[at]
                    continue
                crosses[node.inputs] = len(rows)
                memories.append(_NO_GAP)
                high = end = low + 1
            elif feature is not None and feature.operation is not None:
                memories.append(feature.operation.memory(node.n))
                high = end = low + len(memories[-1])
            a, b, c, d = ([place[x] for x in node.inputs] + [0, 0, 0, 0])[:4]
            rows.append([number, place[at], a, b, c, d, node.n, low, high])
            levels.append(node.level)
        memory = np.concatenate(memories) if memories else _EMPTY
        table = np.array(rows, np.int64).reshape(len(rows), 9)
        return Code(table, np.array(levels, np.float64), memory, n_numbers, n_flags), place


class Plan:
    """A strategy's graph with the five flags that `decide` asks for."""

    def __init__(self, graph: Graph, roots: Sequence[int]) -> None:
        self.graph, self.fast, self.roots = graph, graph.crossed(), tuple(roots)
        found = [(at, f) for at in graph.needed(roots, {}) if (f := graph.nodes[at].feature) is not None]
        self.columns = [f for _, f in found if f.operation is None and f.op not in _COLUMNS]
        self.dear = [(at, f) for at, f in found if f.operation and f.operation.dear and not f.searched]

    def fill(self, cache: FeatureCache, dear: Sequence[tuple[int, Feature]] | None = None) -> None:
        """Put into the cache, as far as there is room, what costs most to compute (or only what is named)."""
        for f in self.columns:
            if f.key not in cache.rows:
                cache.put(f, column(f, cache.bars))
        made = {}
        for at, f in self.dear if dear is None else dear:
            if f.key not in cache.rows and (row := cache.reserve(f)) is not None:
                made[at] = row
        if made:
            ready = {key: row for key, row in cache.rows.items() if row not in made.values()}
            code, _ = self.graph.code(list(made), ready, made, None)
            evaluate(code.rows, code.levels, *columns(cache.bars), cache.values, code.memory, code.n_numbers)

    def pattern(self, cache: FeatureCache) -> "Pattern | None":
        """The program as a pattern for strategies that differ in features only, all of which a cache holds."""
        emitted = [self.fast.nodes[at] for at in self.fast.needed(self.roots, cache.rows)]
        if any(x.feature is not None and x.feature.key not in cache.rows for x in emitted):
            return None
        code, verdicts = self.code(cache.rows)
        by_place = {-1 - cache.rows[f.key]: at for at, x in enumerate(self.graph.nodes) if (f := x.feature) is not None
                    and f.key in cache.rows}  # fmt: skip
        inputs = code.rows[:, 2:4]
        holes = [
            (int(r), int(c) + 2, by_place[int(inputs[r, c])]) for r, c in zip(*np.nonzero(inputs < 0), strict=True)
        ]
        return Pattern(self.graph, code, verdicts, holes)

    def given(self, bars: Bars) -> tuple[dict[str, int], FloatArray]:
        """Rows with the columns that are not plain prices."""
        if not self.columns:
            return {}, np.empty((0, len(bars)))
        return {f.key: i for i, f in enumerate(self.columns)}, np.array([column(f, bars) for f in self.columns])

    def code(self, given: Mapping[str, int], slots: Mapping[str, slice] | None = None) -> tuple[Code, IntArray]:
        """The program and where its five flags are; with `slots` it advances every memory of a state, which lie there."""
        if slots is None:
            code, place = self.fast.code(self.roots, given, {}, None)
        else:
            named = [at for at, node in enumerate(self.graph.nodes) if node.feature is not None]
            code, place = self.graph.code([*self.roots, *named], given, {}, slots)
        return code, np.array([place[at] for at in self.roots], np.int64)


class Pattern(NamedTuple):
    """A program in which only the places of some rows depend on the strategy."""

    graph: Graph
    code: Code
    verdicts: IntArray
    holes: list[tuple[int, int, int]]  # row and column of the program, and the node whose row of a cache belongs there

    def filled(self, conditions: Sequence[Condition], cache: FeatureCache) -> IntArray | None:
        """The rows for these conditions; None if they are made differently, or the cache lacks one of their features."""
        found: dict[int, Feature] = {}
        waiting = [
            (f, at) for c, asked in zip(conditions, self.graph.asked, strict=True)
            for f, at in zip(c.inputs.values(), asked, strict=True)
        ]  # fmt: skip
        while waiting:
            feature, at = waiting.pop()
            before = found.get(at)
            if before is not None:
                if before.key != feature.key:
                    return None
                continue
            like = self.graph.nodes[at].feature
            if like is None or like.op != feature.op or len(like.inputs) != len(feature.inputs):
                return None
            found[at] = feature
            waiting += zip(feature.inputs, self.graph.nodes[at].inputs, strict=True)
        rows = self.code.rows.copy()
        for row, place, at in self.holes:
            kept = cache.rows.get(found[at].key)
            if kept is None:
                return None
            rows[row, place] = -1 - kept
        return rows


def shared_code(features: Iterable[Feature], rows: Mapping[str, int]) -> Code:
    """The program that puts these features into their rows; other features that have one are there already."""
    graph = Graph()
    made = {graph.feature(feature): rows[feature.key] for feature in features}
    ready = {key: row for key, row in rows.items() if row not in made.values()}
    return graph.code(list(made), ready, made, None)[0]


def columns(bars: Bars) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """The five plain columns as the machine takes them."""
    one = np.ascontiguousarray
    return one(bars.open), one(bars.high), one(bars.low), one(bars.close), one(bars.volume)


def compile_strategy(
    slots: Mapping[str, Sequence[Condition]], logic_entry: Sequence[Condition], logic_exit: Sequence[Condition]
) -> Plan | None:
    """The plan of a strategy, or None if the machine cannot compute all of it."""
    graph = Graph()
    try:
        roots = [
            graph.all_of(slots["entry"], "either", "never"),
            graph.all_of([*slots["trend"], *slots["filter"]], "both", "always"),
            graph.all_of(slots["exit"], "either", "never"),
            graph.all_of(logic_entry, "either", "never"),
            graph.all_of(logic_exit, "either", "never"),
        ]
    except _Untraceable:
        return None
    return Plan(graph, roots)
