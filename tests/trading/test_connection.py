"""The table of a connection's states, whole; and the waits between attempts."""

import itertools

import pytest

from algo_royale.broker.connection import DOWN, TRANSITIONS, UP, Connection, Event, Reconnect, State, ending

SECOND_NS = 1_000_000_000
# What every state makes of every event; "." is no change. Columns as in the heading.
WHOLE = """
                opened          authenticated  subscribed  heard  silent   late     lost     refused  forbidden  due
connecting      authenticating  .              .           .      .        backoff  backoff  backoff  fatal      .
authenticating  .               subscribing    .           .      .        backoff  backoff  backoff  fatal      .
subscribing     .               .              live        .      .        backoff  backoff  backoff  fatal      .
live            .               .              .           .      stale    .        backoff  backoff  fatal      .
stale           .               .              .           live   backoff  .        backoff  backoff  fatal      .
backoff         .               .              .           .      .        .        .        .        .          connecting
fatal           .               .              .           .      .        .        .        .        .          connecting
"""


def whole() -> dict[tuple[State, Event], State]:
    heading, *rows = [line.split() for line in WHOLE.strip().splitlines()]
    return {
        (State(row[0]), Event(event)): State(row[0] if cell == "." else cell)
        for row in rows
        for event, cell in zip(heading, row[1:], strict=True)
    }


def test_the_table_above_has_every_state_and_every_event() -> None:
    assert set(whole()) == set(itertools.product(State, Event))


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_event_in_every_state(state: State, event: Event) -> None:
    connection = Connection(state=state)

    changed = connection.on(event, 7)

    expected = whole()[state, event]
    assert connection.state is expected
    assert changed is (expected is not state)


def test_every_state_can_be_reached_and_left_again() -> None:
    """No dead end: even from fatal there is a way back to live."""
    reached = {State.BACKOFF}
    for _ in State:
        reached |= {after for state in reached for after in TRANSITIONS[state].values()}
    assert reached == set(State)
    for state in State:
        seen = {state}
        for _ in State:
            seen |= {after for known in seen for after in TRANSITIONS[known].values()}
        assert State.LIVE in seen


def walk(connection: Connection, *events: tuple[float, Event]) -> None:
    for at_s, event in events:
        connection.on(event, round(at_s * SECOND_NS))


OPEN = ((0.0, Event.DUE), (0.1, Event.OPENED), (0.2, Event.AUTHENTICATED), (0.3, Event.SUBSCRIBED))


def delays(connection: Connection, count: int, event: Event) -> list[float]:
    waits = []
    for _ in range(count):
        walk(connection, (0.0, Event.DUE), (0.0, event))
        waits.append(connection.delay_s(0.5))
    return waits


def test_waits_double_to_their_limit() -> None:
    assert delays(Connection(), 7, Event.LOST) == [1, 2, 4, 8, 16, 30, 30]
    assert delays(Connection(), 7, Event.REFUSED) == [5, 10, 20, 40, 80, 120, 120]
    assert delays(Connection(), 2, Event.FORBIDDEN) == [120, 120]


def test_jitter_moves_a_wait_by_a_quarter_at_most() -> None:
    connection = Connection(rules=Reconnect(base_s=4.0))
    walk(connection, (0.0, Event.DUE), (0.0, Event.LOST))
    assert (connection.delay_s(0.0), connection.delay_s(0.999999)) == (3.0, pytest.approx(5.0, abs=1e-5))


@pytest.mark.parametrize(("told_until_s", "wait"), [(None, 30.0), (5.0, 30.0), (10.2, 30.0), (10.4, 1.0)])
def test_only_data_over_ten_seconds_makes_the_next_wait_short_again(told_until_s: float | None, wait: float) -> None:
    """Live and mute for an hour is no success, nor is a moment of data."""
    connection = Connection()
    delays(connection, 6, Event.LOST)
    walk(connection, *OPEN)
    if told_until_s is not None:
        walk(connection, (told_until_s, Event.HEARD))
    walk(connection, (3600.0, Event.LOST))

    assert connection.delay_s(0.5) == wait


@pytest.mark.parametrize(("stays_s", "wait"), [(5.0, 30.0), (11.0, 1.0)])
def test_a_line_that_may_be_quiet_proves_itself_by_staying(stays_s: float, wait: float) -> None:
    connection = Connection(often_quiet=True)
    delays(connection, 6, Event.LOST)
    walk(connection, *OPEN, (stays_s, Event.LOST))

    assert connection.delay_s(0.5) == wait


def test_the_reason_is_kept_until_it_is_live_again() -> None:
    connection = Connection()
    walk(connection, *OPEN)
    connection.on(Event.LOST, 5, "no route")
    assert (connection.detail, connection.reconnects) == ("no route", 1)
    walk(connection, *OPEN)
    assert (connection.detail, connection.reconnects) == ("", 2)


@pytest.mark.parametrize(
    ("detail", "event"),
    [
        ("handshake: http 429", Event.REFUSED), ("error: HTTP 429", Event.REFUSED), ("connection limit exceeded", Event.REFUSED),
        ("handshake: http 503", Event.LOST), ("", Event.LOST),
    ],
)  # fmt: skip
def test_a_refusal_is_told_from_a_loss(detail: str, event: Event) -> None:
    assert ending(detail) is event
    assert ending(detail, forbidden=True) is Event.FORBIDDEN


def test_up_and_down_are_what_they_say() -> None:
    assert {State.LIVE, State.STALE} == UP
    assert {State.BACKOFF, State.FATAL} == DOWN
