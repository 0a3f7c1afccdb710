"""Notices: what people should know about this node, kept in the record that it announces."""

from __future__ import annotations

import dataclasses
import itertools
import math

import trio

from metafora_trio._model.json_record import printable
from metafora_trio._model.node_info import MAX_NOTICE, MAX_NOTICES
from metafora_trio.contract import Session

__all__ = ["Notices"]

_EVERY = 5.0
"""The least seconds between two announcements. A node may have thousands of bad tasks, and every node reads each
record."""


class Notices:
    """The sentences that this node currently says about itself.

    The first change is announced at once. Later ones wait until some seconds after the last announcement, for
    `announce_if_due`.

    They are for people, in `metafora nodes` and `metafora doctor`. No node decides anything by them.

    Args:
        session: announces them. They do not outlast it: what is still true in the next session is reported again.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._sentences: dict[str, str] = {}
        self._announced_at = -math.inf

    def report(self, subject: str, sentence: str) -> None:
        """Say something about this node, in place of what was said about the same subject before.

        Args:
            subject: what it is about, such as "blocked" or "task a"; never shown.
            sentence: one line. It is cut after `MAX_NOTICE` characters.
        """
        if self._sentences.get(subject) != sentence:
            self._sentences[subject] = sentence
            self.announce_if_due()

    def clear(self, subject: str) -> None:
        """Say no more about a subject, because it is no longer true. Does nothing if nothing was said."""
        if self._sentences.pop(subject, None) is not None:
            self.announce_if_due()

    def announce_if_due(self) -> None:
        """Announce what has changed, unless the last announcement was only a few seconds ago. Call this repeatedly."""
        if trio.current_time() >= self._announced_at + _EVERY:
            self.announce()

    def announce(self) -> None:
        """Announce what has changed, at once. Does nothing if others would see no change."""
        first = itertools.islice(self._sentences.values(), MAX_NOTICES)  # there may be thousands
        shown = [printable(" ".join(sentence.split()))[:MAX_NOTICE] for sentence in first]
        if (count := len(self._sentences)) > MAX_NOTICES:
            shown[MAX_NOTICES - 1 :] = [f"and {count - MAX_NOTICES + 1} more"]
        notices = tuple(shown)
        if notices != self._session.node.notices:
            self._announced_at = trio.current_time()
            self._session.announce(dataclasses.replace(self._session.node, notices=notices))
