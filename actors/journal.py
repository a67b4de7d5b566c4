"""The journal actor: the message log's face in the tree. The log's writer is a plain thread that never blocks anyone."""

import logging
from collections.abc import Callable, Mapping

from actors.kernel import Actor
from actors.messages import JobDue

logger = logging.getLogger(__name__)


class JournalActor(Actor[JobDue]):
    """Looks at the message log's health when its job is due and says aloud when records were lost.

    Losing the log never stops trading (the ledger is what must not be lost), but nobody should learn of it afterwards.
    """

    def __init__(self, health: Callable[[], Mapping[str, object]]) -> None:
        self._health = health
        self._said: tuple[bool, object] = (False, None)

    def receive(self, message: JobDue) -> None:
        health = self._health()
        trouble = (bool(health.get("dropped")), health.get("error"))
        if any(trouble) and trouble != self._said:
            logger.error("message log is incomplete dropped=%s error=%s", health.get("dropped"), health.get("error"))
        self._said = trouble

    def observe(self) -> Mapping[str, object]:
        return self._health()
