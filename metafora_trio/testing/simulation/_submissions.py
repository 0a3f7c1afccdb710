"""Submissions: every request to submit a task, and the judgement whether each acknowledged one was carried out.

A task can be submitted again once it has ended, so its id does not tell which submission a run belongs to. Its
properties do: a simulated cluster gives each submission different ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Submission", "Submissions"]


@dataclass(eq=False, slots=True)
class Submission:
    """One request to submit a task.

    Attributes:
        task: the id of the task.
        props: its properties.
        acknowledged: whether the client has been told that the task was submitted.
        deletable: whether a delete may have removed the task before it ran.
        ran: whether a handler has started with these properties.
        over: whether a handler has started with those of a later submission since.
    """

    task: str
    props: Mapping[str, Any]
    acknowledged: bool = False
    deletable: bool = False
    ran: bool = False
    over: bool = False

    def __str__(self) -> str:
        return f"{self.task} with {dict(self.props)}"


class Submissions:
    """All submissions of a history."""

    def __init__(self) -> None:
        self._of: defaultdict[str, list[Submission]] = defaultdict(list)
        self._latest: dict[str, Submission] = {}
        self._deletes: defaultdict[str, int] = defaultdict(int)

    def count(self, task: str) -> int:
        """Return how often a task was submitted so far, whatever the outcomes."""
        return len(self._of[task])

    def submit(self, task: str, props: Mapping[str, Any]) -> Submission:
        """Record that a client begins to submit a task."""
        submission = Submission(task, props, deletable=self._deletes[task] > 0)
        self._of[task].append(submission)
        return submission

    def delete(self, task: str) -> None:
        """Record that a client begins to delete a task. From now on the task may go without having run."""
        self._deletes[task] += 1
        for submission in self._of[task]:
            submission.deletable = True

    def delete_answered(self, task: str) -> None:
        """Record that a delete was carried out or refused. One whose outcome is unknown may still take effect."""
        self._deletes[task] -= 1

    def started(self, task: str, props: Mapping[str, Any]) -> str:
        """Record that a handler starts with these properties. Returns what is wrong with them, or an empty string."""
        matching = [submission for submission in self._of[task] if submission.props == props]
        if not matching:
            return f"{task} runs with {dict(props)}, which nobody submitted"
        for submission in matching:
            submission.ran = True
        if len(matching) > 1:  # the author of a test may submit the same properties twice
            return ""
        (submission,) = matching
        latest, self._latest[task] = self._latest.get(task, submission), submission
        if latest is not submission:
            latest.over = True
        return f"{submission} runs again after a later submission" if submission.over else ""

    def forgotten(self) -> Iterator[Submission]:
        """Yield the acknowledged submissions that never ran, although no client asked to delete the task."""
        for submissions in self._of.values():
            for submission in submissions:
                if submission.acknowledged and not submission.deletable and not submission.ran:
                    yield submission
