"""Signal strategies: their table, search spaces, construction, and the compiled step they share."""

from algo_royale.features import FeatureCache
from algo_royale.strategies.combined import CombinedRun, CombinedSignal, CombinedState, MemberReasons, Vote
from algo_royale.strategies.conditions import CONDITIONS, LOGICS
from algo_royale.strategies.space import ParamSpec
from algo_royale.strategies.strategy import (
    STRATEGIES,
    Reason,
    Run,
    State,
    Strategy,
    StrategySpec,
    build,
    compose,
    default_trial,
    required_history,
    resolve,
    signals,
    space,
    spec,
    strategy_id,
)  # fmt: skip

__all__ = [
    "CONDITIONS",
    "LOGICS",
    "STRATEGIES",
    "CombinedRun",
    "CombinedSignal",
    "CombinedState",
    "FeatureCache",
    "MemberReasons",
    "ParamSpec",
    "Reason",
    "Run",
    "State",
    "Strategy",
    "StrategySpec",
    "Vote",
    "build",
    "compose",
    "default_trial",
    "required_history",
    "resolve",
    "signals",
    "space",
    "spec",
    "strategy_id",
]
