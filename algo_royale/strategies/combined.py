"""One symbol's signal from several strategies: a weighted vote of what each of them holds.

Y = Σ weight·in and Z = Σ weight·(1 - in), summed in strategy-name order. EXIT if Z reaches the sell threshold, else
ENTER if Y reaches the buy threshold, else HOLD: EXIT dominates the exact tie. Y is the score of the symbol.
"""

import itertools
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from algo_royale.errors import BadConfiguration, BadInput
from algo_royale.features import FeatureCache
from algo_royale.market import ENTER, EXIT, Bars, BoolArray, FloatArray, SignalArray
from algo_royale.strategies.strategy import Reason, Run, State, Strategy

_ROUNDING = 1e-12  # weights that sum to a threshold in decimals reach it in binary too


class CombinedRun(NamedTuple):
    """Per bar: the signal, the weight that is in (0..1), and whether the symbol is in after it."""

    signal: SignalArray
    score: FloatArray
    state_in: BoolArray


class Vote(NamedTuple):
    """What one strategy says after a bar: whether it is in, with its normalised weight."""

    strategy: str
    strategy_id: str
    weight: float
    is_in: bool


class MemberReasons(NamedTuple):
    """Why one strategy votes as it does: its conditions at the last bar."""

    vote: Vote
    signal: int
    reasons: list[Reason]


@dataclass(frozen=True, slots=True)
class CombinedState:
    """States of the strategies, in vote order, and whether the symbol is in."""

    members: tuple[State, ...]
    is_in: bool = False

    def to_bytes(self) -> bytes:
        """Flag and count, the length of each state, then the states."""
        parts = [state.to_bytes() for state in self.members]
        return struct.pack(f"<?q{len(parts)}q", self.is_in, len(parts), *map(len, parts)) + b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> "CombinedState":
        try:
            is_in, count = struct.unpack_from("<?q", data)
            lengths = struct.unpack_from(f"<{count}q", data, 9)
        except struct.error as error:
            raise BadInput(f"{len(data)} bytes are not the state of a combined signal") from error
        ends = np.cumsum([9 + 8 * count, *lengths]).tolist()
        if ends[-1] != len(data):
            raise BadInput(f"the state of a combined signal has {len(data)} bytes and should have {ends[-1]}")
        return cls(tuple(State.from_bytes(data[a:b]) for a, b in itertools.pairwise(ends)), is_in)


class CombinedSignal:
    """The weighted vote of strategies of one symbol. Weights are normalised; no members means no ENTER, ever."""

    def __init__(
        self,
        members: Iterable[tuple[Strategy, float]],
        buy_threshold: float = 0.5,
        sell_threshold: float = 0.5,
        vote_mode: str = "state",
    ) -> None:
        ordered = sorted(members, key=lambda member: (member[0].name, member[0].id))
        if any(not (math.isfinite(weight) and weight > 0.0) for _, weight in ordered):
            raise BadConfiguration(f"weights of strategies are positive: {[(s.name, w) for s, w in ordered]}")
        if not (0.0 < buy_threshold <= 1.0 and 0.0 < sell_threshold <= 1.0):
            raise BadConfiguration(f"vote thresholds lie in (0, 1], not {buy_threshold} and {sell_threshold}")
        if vote_mode not in ("state", "signal"):
            raise BadConfiguration(f"vote_mode is state or signal, not {vote_mode!r}")
        total = sum(weight for _, weight in ordered)
        self.strategies = tuple(strategy for strategy, _ in ordered)
        self.weights = tuple(weight / total for _, weight in ordered)
        self.settle = max((strategy.settle for strategy in self.strategies), default=0)
        self._buy, self._sell, self._mode = buy_threshold - _ROUNDING, sell_threshold - _ROUNDING, vote_mode

    def init(self) -> CombinedState:
        """The state before the first bar, flat."""
        return CombinedState(tuple(strategy.init() for strategy in self.strategies))

    def reset_position(self, state: CombinedState) -> CombinedState:
        """The same memory of the past, every strategy and the symbol flat, as at the first bar of a period."""
        self._own(state)
        pairs = zip(self.strategies, state.members, strict=True)
        return CombinedState(tuple(strategy.reset_position(member) for strategy, member in pairs))

    def update(self, bars: Bars, state: CombinedState) -> tuple[SignalArray, FloatArray, BoolArray, CombinedState]:
        """Signal, score and whether in, per bar of the chunk, and the state after it."""
        self._own(state)
        if not len(bars):
            return np.zeros(0, np.int8), np.zeros(0), np.zeros(0, np.bool_), state
        runs, members = [], []
        for strategy, member in zip(self.strategies, state.members, strict=True):
            run, after = strategy.step(bars, member)
            runs.append(run)
            members.append(after)
        signal, score, state_in = self._combine(runs, len(bars), state.is_in)
        return signal, score, state_in, CombinedState(tuple(members), bool(state_in[-1]))

    def run(self, bars: Bars, *, start: int = 0, cache: FeatureCache | None = None) -> CombinedRun:
        """All bars at once; flat at bar `start`, and HOLD with score 0 before it. See Strategy.run."""
        runs = [strategy.run(bars, start=start, cache=cache) for strategy in self.strategies]
        late = [Run(run.signal[start:], run.state_in[start:]) for run in runs]
        signal, score, state_in = self._combine(late, len(bars) - start, False)
        return CombinedRun(_after(start, signal), _after(start, score), _after(start, state_in))

    def votes(self, state: CombinedState) -> list[Vote]:
        """What each strategy says after the last bar, in vote order."""
        self._own(state)
        members = zip(self.strategies, self.weights, state.members, strict=True)
        return [
            Vote(strategy.name, strategy.id, weight, strategy.is_in(member)) for strategy, weight, member in members
        ]

    def explain(self, bars: Bars, state_before: CombinedState) -> list[MemberReasons]:
        """Why the last bar of `bars` got its signal: each vote with its conditions."""
        self._own(state_before)
        out = []
        for strategy, weight, member in zip(self.strategies, self.weights, state_before.members, strict=True):
            run, after = strategy.step(bars, member)
            vote = Vote(strategy.name, strategy.id, weight, strategy.is_in(after))
            out.append(MemberReasons(vote, int(run.signal[-1]), strategy.explain(bars, member)))
        return out

    def _combine(self, runs: list[Run], n: int, is_in: bool) -> CombinedRun:
        buy, sell = np.zeros(n), np.zeros(n)
        for weight, run in zip(self.weights, runs, strict=True):
            if self._mode == "state":
                buy += weight * run.state_in
                sell += weight * ~run.state_in
            else:
                buy += weight * (run.signal == ENTER)
                sell += weight * (run.signal == EXIT)
        signal = np.where(sell >= self._sell, EXIT, np.where(buy >= self._buy, ENTER, 0)).astype(np.int8)
        # The last bar, up to each one, whose signal said anything; 0 stands for what was so before the chunk.
        last = np.maximum.accumulate(np.where(signal != 0, np.arange(1, n + 1), 0))
        said = np.concatenate(([is_in], signal == ENTER))
        return CombinedRun(signal, buy, said[last])

    def _own(self, state: CombinedState) -> None:
        if [member.owner for member in state.members] != [strategy.id for strategy in self.strategies]:
            raise BadInput("a state of other strategies was given to a combined signal")


def _after(start: int, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate((np.zeros(start, values.dtype), values))
