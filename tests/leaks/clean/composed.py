"""Nothing new, only put together and searched otherwise."""

from algo_royale.strategies.own import choice, integer, strategy

strategy(
    "Composed",
    entry=["RSIEntry", "VWAPReversionEntry"],
    exit="RSIExit",
    trend=["PriceAboveSMA"],
    logic="TrailingStop",
    shared=["period"],
    limits={"RSIEntry": {"period": integer(5, 14, 9)}, "PriceAboveSMA": {"sma": choice(100, 200)}},
)
