"""Requests per minute: never more than allowed in any sixty seconds, and always some left for what is urgent."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from algo_royale.broker.budget import MINUTE_NS, SECOND_NS, Budget
from algo_royale.errors import BrokerRejected, BrokerUnavailable


@given(
    gaps=st.lists(st.integers(0, 20 * SECOND_NS), max_size=80),
    counts=st.lists(st.integers(1, 7), min_size=80, max_size=80),
    most=st.integers(4, 30),
    urgent=st.lists(st.booleans(), min_size=80, max_size=80),
)
def test_no_sixty_seconds_hold_more_than_allowed_and_no_wait_is_too_long(
    gaps: list[int], counts: list[int], most: int, urgent: list[bool]
) -> None:
    """Whoever waits as told may send then; a nanosecond before, it was one too many."""
    budget, sent = Budget(most, reserve=2), list[int]()
    now_ns = 0
    for gap, count, is_urgent in zip(gaps, counts, urgent, strict=False):
        now_ns += gap
        wanted = min(count, most - 2)
        wait_ns = budget.wait_ns(now_ns, wanted, urgent=is_urgent)
        limit = most if is_urgent else most - 2
        if wait_ns:
            just_before = now_ns + wait_ns - 1
            assert sum(at > just_before - MINUTE_NS for at in sent) + wanted > limit
        now_ns += wait_ns
        assert budget.wait_ns(now_ns, wanted, urgent=is_urgent) == 0
        budget.spend(now_ns, wanted)
        sent += [now_ns] * wanted
    for first in sent:
        assert sum(first <= at < first + MINUTE_NS for at in sent) <= most


def test_the_reserve_is_for_what_is_urgent() -> None:
    budget = Budget(180)
    budget.spend(0, 160)

    assert budget.wait_ns(0) == MINUTE_NS
    assert budget.wait_ns(0, urgent=True) == 0
    assert budget.left(0) == 20
    assert budget.wait_ns(MINUTE_NS) == 0


def test_more_than_a_minute_holds_is_asked_for_a_minute_at_a_time() -> None:
    assert Budget(10, reserve=0).wait_ns(0, 1000) == 0


def test_a_pause_holds_everything() -> None:
    budget = Budget(180)
    for error in (
        BrokerUnavailable("429", retry_after_s=5.0), BrokerUnavailable("429", retry_after_s=3.0), BrokerUnavailable("gone"),
        BrokerRejected(422, None, "no"),
    ):  # fmt: skip
        budget.heed(error, 0)
    assert (budget.wait_ns(0), budget.wait_ns(0, urgent=True), budget.wait_ns(5 * SECOND_NS)) == (
        5 * SECOND_NS, 5 * SECOND_NS, 0,
    )  # fmt: skip


def test_without_a_limit_nothing_is_counted() -> None:
    budget = Budget(None)
    for _ in itertools.repeat(None, 1000):
        budget.spend(0)
    assert (budget.wait_ns(0), budget.left(0)) == (0, None)
