"""Mailboxes: two lanes, bounds, policies; every message ends exactly once."""

import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.kernel import MailboxSpec, Outcome, Overflow, Reason, Record, Stop
from actors.kernel.control import Ending
from actors.kernel.mailbox import BlockingLane, Mailbox
from kernel_probes import note

STOP = Stop(Reason(Ending.SHUTDOWN))


class Books:
    """The office of a mailbox: remembers who ended how."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, Outcome]] = []
        self.controls = 0
        self.may_wait = False

    def end(self, record: Record, outcome: Outcome, detail: str) -> None:
        self.ends.append((record.id, outcome))

    def end_control(self) -> None:
        self.controls += 1

    def wait_for_room(self, mailbox: Mailbox) -> bool:
        if self.may_wait:
            assert isinstance(mailbox.data, BlockingLane)
            mailbox.data.wait(mailbox)
        return self.may_wait


def record(number: int, text: str = "") -> Record:
    return Record(number, 0, number, "ingress", 0, "a", 0, note(text))


def take_all(mailbox: Mailbox) -> list[int]:
    taken = []
    while len(mailbox):
        item = mailbox.data.popleft()
        assert isinstance(item, Record)
        taken.append(item.id)
    return taken


# A list of None (take one) and keys (put one).
OPERATIONS = st.lists(st.one_of(st.none(), st.sampled_from("abc")), max_size=60)


@given(OPERATIONS, st.integers(1, 5))
def test_reject_keeps_the_oldest_and_says_so(operations: list[str | None], capacity: int) -> None:
    """Against a plain list: what fits is kept in order, what does not is refused and dead-lettered."""
    books, model, refused = Books(), list[int](), list[int]()
    mailbox = Mailbox("a", MailboxSpec(capacity=capacity), books)
    for number, operation in enumerate(operations):
        if operation is None:
            if model:
                taken = mailbox.data.popleft()
                assert isinstance(taken, Record)
                assert taken.id == model.pop(0)
        elif mailbox.put(record(number)):
            model.append(number)
        else:
            refused.append(number)
            assert len(model) == capacity
    assert take_all(mailbox) == model
    assert books.ends == [(number, Outcome.OVERFLOW) for number in refused]


@given(OPERATIONS, st.integers(1, 5))
def test_drop_oldest_keeps_the_newest(operations: list[str | None], capacity: int) -> None:
    """Against a plain list cut from the front; a put never fails."""
    books, model, dropped = Books(), list[int](), list[int]()
    mailbox = Mailbox("a", MailboxSpec(capacity=capacity, overflow=Overflow.DROP_OLDEST), books)
    for number, operation in enumerate(operations):
        if operation is None:
            if model:
                mailbox.data.popleft()
                model.pop(0)
        else:
            assert mailbox.put(record(number))
            dropped += model[: len(model) + 1 - capacity]
            model = [*model, number][-capacity:]
    assert take_all(mailbox) == model
    assert books.ends == [(number, Outcome.OVERFLOW) for number in dropped]


@given(OPERATIONS, st.integers(1, 5))
def test_conflation_keeps_the_newest_of_each_key_at_the_place_of_the_oldest(
    operations: list[str | None], capacity: int
) -> None:
    """Against a slow list of (key, number)."""
    books, model, ends = Books(), list[tuple[str, int]](), list[tuple[int, Outcome]]()
    spec = MailboxSpec(capacity=capacity, overflow=Overflow.CONFLATE, conflate_by=lambda message: message.text)
    mailbox = Mailbox("a", spec, books)
    for number, operation in enumerate(operations):
        if operation is None:
            if model:
                mailbox.data.popleft()
                model.pop(0)
            continue
        at = next((i for i, (key, _) in enumerate(model) if key == operation), None)
        if at is not None:
            ends.append((model[at][1], Outcome.CONFLATED))
            model[at] = (operation, number)
        elif len(model) < capacity:
            model.append((operation, number))
        else:
            ends.append((number, Outcome.OVERFLOW))
        assert mailbox.put(record(number, operation)) == (ends[-1:] != [(number, Outcome.OVERFLOW)])
    assert take_all(mailbox) == [number for _, number in model]
    assert books.ends == ends


def test_a_message_without_a_key_is_never_conflated() -> None:
    books = Books()
    spec = MailboxSpec(overflow=Overflow.CONFLATE, conflate_by=lambda message: message.text or None)
    mailbox = Mailbox("a", spec, books)
    for number in range(3):
        mailbox.put(record(number))
    assert take_all(mailbox) == [0, 1, 2]


def test_blocked_ingress_goes_on_when_there_is_room() -> None:
    """A full BLOCK mailbox holds a non-actor thread until the reader takes one; nothing is lost."""
    books = Books()
    books.may_wait = True
    mailbox = Mailbox("a", MailboxSpec(capacity=1, overflow=Overflow.BLOCK), books)
    mailbox.put(record(1))
    done = threading.Event()

    def ingress() -> None:
        mailbox.put(record(2))
        done.set()

    thread = threading.Thread(target=ingress)
    thread.start()
    mailbox.data.popleft()
    assert done.wait(10)
    thread.join(10)
    assert take_all(mailbox) == [2]
    assert books.ends == []


def test_blocked_ingress_is_let_go_when_the_address_closes() -> None:
    books = Books()
    books.may_wait = True
    mailbox = Mailbox("a", MailboxSpec(capacity=1, overflow=Overflow.BLOCK), books)
    mailbox.put(record(1))
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(mailbox.put(record(2))))
    thread.start()
    mailbox.close()
    thread.join(10)
    assert answers == [False]
    assert sorted(books.ends) == [(1, Outcome.DEAD), (2, Outcome.DEAD)]


def test_who_must_not_wait_is_rejected_by_a_full_block_mailbox() -> None:
    """An actor telling an actor never waits: two that do so wait for ever."""
    books = Books()
    mailbox = Mailbox("a", MailboxSpec(capacity=1, overflow=Overflow.BLOCK), books)
    assert [mailbox.put(record(n)) for n in (1, 2)] == [True, False]
    assert books.ends == [(2, Outcome.OVERFLOW)]


def test_control_has_a_lane_of_its_own_and_may_also_wait_its_turn() -> None:
    mailbox = Mailbox("a", MailboxSpec(), Books())
    mailbox.put(record(1))
    mailbox.put_control(STOP)
    mailbox.put_control(STOP, last=True)
    assert list(mailbox.control) == [STOP]
    assert [type(item).__name__ for item in mailbox.data] == ["Record", "Stop"]  # type: ignore[union-attr]


def test_a_stop_behind_the_data_is_not_dropped_with_it() -> None:
    """Overflow drops data, never control: the stop moves to the control lane."""
    mailbox = Mailbox("a", MailboxSpec(capacity=1, overflow=Overflow.DROP_OLDEST), Books())
    mailbox.put_control(STOP, last=True)
    mailbox.put(record(1))
    assert list(mailbox.control) == [STOP]
    assert take_all(mailbox) == [1]


@pytest.mark.parametrize("round_", range(20))
def test_no_message_is_lost_when_telling_races_with_closing(round_: int) -> None:
    """Four senders against one closer: each message was refused, or is a dead letter, and none is both or neither."""
    books, told, senders = Books(), list[int](), 4
    mailbox = Mailbox("a", MailboxSpec(), books)
    barrier = threading.Barrier(senders + 1)

    def send(sender: int) -> None:
        barrier.wait()
        for number in range(sender * 1000, sender * 1000 + 200):
            mailbox.put(record(number))
            told.append(number)

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
    for thread in threads:
        thread.start()
    barrier.wait()
    mailbox.close()
    for thread in threads:
        thread.join(10)
    assert len(mailbox) == 0
    assert Counter(number for number, _ in books.ends) == Counter(told)


def test_impossible_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="can hold nothing"):
        MailboxSpec(capacity=0)
    with pytest.raises(ValueError, match="go together"):
        MailboxSpec(overflow=Overflow.CONFLATE)
