"""The conformance suite catches wrong coordinators: each bug planted here fails the test that is meant to find it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing

import metafora_trio as mt
from metafora_trio import contract
from metafora_trio._memory.client import MemoryClient
from metafora_trio._memory.feed import Feed, Item, Request
from metafora_trio._memory.session import MemorySession
from metafora_trio._memory.store import Store
from metafora_trio._model.view import ClaimRemoved, TaskRemoved
from metafora_trio.testing.conformance import CoordinatorConformance, eventually
from metafora_trio.testing.conformance._subject import raises, until_reported
from tests.support.subjects import memory_subject

Patch = Callable[[pytest.MonkeyPatch], None]


def patch(target: type, name: str, wrong: object) -> Patch:
    return lambda monkeypatch: monkeypatch.setattr(target, name, wrong)


# ---- planted bugs


def remove_unconditionally(self: Store, claim: mt.Claim, *, if_there: mt.Claim | None = None) -> None:
    if self._has(claim):
        self._commit(ClaimRemoved(claim))


def finish_without_claim(self: Store, claim: mt.Claim, version: int, state: mt.TaskState | None) -> None:
    self.tasks.pop(claim.task, None)
    self.states[claim.task] = state or mt.TaskState()
    self._commit(TaskRemoved(claim.task), ClaimRemoved(claim))


def finish_claim_first(self: Store, claim: mt.Claim, version: int, state: mt.TaskState | None) -> None:
    self._commit(ClaimRemoved(claim))
    for feed in self._feeds:
        feed._catch_up()
        feed.inbox.latency = 1.0  # delays all later events
    finish_without_claim(self, claim, version, state)


def finish_any_version(self: Store, claim: mt.Claim, version: int, state: mt.TaskState | None) -> None:
    if self._has(claim) and claim.task in self.tasks:
        finish_without_claim(self, claim, version, state)


def finish_keeping_the_state(self: Store, claim: mt.Claim, version: int, state: mt.TaskState | None) -> None:
    if self._has(claim) and (stored := self.tasks.get(claim.task)) and stored.version == version:
        finish_without_claim(self, claim, version, state)


def submit_one_by_one(self: Store, tasks: Sequence[mt.Task], *, again: bool) -> None:
    for task in tasks:
        right_submit(self, [task], again=again)


def submit_always_again(self: Store, tasks: Sequence[mt.Task], *, again: bool) -> None:
    right_submit(self, tasks, again=True)


def delete_by_prefix(self: Store, task: str) -> bool:
    for id in [id for id in self.tasks if id.startswith(task)]:
        right_delete(self, id)
    return True


async def delete_until_one_is_unknown(self: MemoryClient, tasks: Sequence[str]) -> Sequence[str]:
    for place, task in enumerate(tasks):
        if await right_client_delete(self, [task]):
            return tasks[place:]
    return []


def look_up_claims_of_any_age(self: Store, task: str) -> contract.TaskSnapshot:
    queue = sorted(self.view.queue(task), key=lambda claim: -claim.seq)
    return contract.TaskSnapshot(self.tasks.get(task), self.states.get(task), queue)


def begin_with_an_empty_view(self: Store, feed: Feed) -> None:
    right_feed(self, feed)
    feed.inbox.put(feed.view)
    feed.view = contract.ClusterView()


def keep_the_session(self: Store, identity: str) -> None:
    """Keep the node and its claims when it leaves."""


def send_to_every_node(self: Store, identity: str, command: mt.Command) -> None:
    for member in self._members:
        right_queue_command(self, member, command)


def send_without_waking(self: MemorySession, item: Item) -> None:
    if isinstance(item, contract.QueuedCommand):
        self._queued_commands[item.id] = item
    else:
        right_session_apply(self, item)


def fail_silently(self: MemorySession, item: Item) -> None:
    right_session_apply(self, item)
    if isinstance(item, Request) and item.task is not None:
        self._changes.tasks.pop(item.task, None)


def answer_before_the_event(self: MemorySession, request: Request) -> None:
    right_ask(self, request)
    self._pending.clear()


def claim_at_once(self: MemorySession, request: Request) -> None:
    request.effect()
    self.inbox.put(request)
    self._outstanding += 1
    self._catch_up()


def ask_after_the_end(self: MemorySession, request: Request) -> None:
    self._outstanding += 1
    self._store.put_node(self.node)
    request.effect()


def a_falling_number(self: Store) -> int:
    return 1_000_000 - next(self._numbers)


async def change_and_forget(self: Feed) -> None:
    try:
        await right_wait_changed(self)
    except trio.Cancelled:
        self._changes = contract.Changes()
        self.inbox._items.clear()
        raise


def lagging(self: MemoryClient) -> None:
    """Do not wait until the client's own writes are in its view."""


right_submit, right_delete, right_queue_command = Store.submit, Store.delete, Store.queue_command
right_feed, right_client_delete = Store.feed, MemoryClient.delete
right_session_apply, right_ask = MemorySession._apply, MemorySession._ask
right_wait_changed = Feed.wait_changed

WRONG: dict[str, Patch] = {
    "test_exactly_one_of_handover_and_withdrawal_happens": patch(Store, "remove_claim", remove_unconditionally),
    "test_a_handover_without_heir_changes_nothing": patch(Store, "remove_claim", remove_unconditionally),
    "test_a_bid_is_not_withdrawn_when_the_owner_has_gone": patch(Store, "remove_claim", remove_unconditionally),
    "test_finish_without_the_claim_changes_nothing": patch(Store, "finish", finish_without_claim),
    "test_a_finished_task_is_never_shown_to_its_heir": patch(Store, "finish", finish_claim_first),
    "test_a_finish_and_a_delete_never_undo_each_other": patch(Store, "finish", finish_any_version),
    "test_a_delete_is_a_tombstone": patch(Store, "finish", finish_keeping_the_state),
    "test_a_task_is_submitted_once": patch(Store, "submit", submit_one_by_one),
    "test_resubmitting_an_ended_task_needs_again": patch(Store, "submit", submit_always_again),
    "test_a_deleted_id_is_not_taken_for_a_prefix": patch(Store, "delete", delete_by_prefix),
    "test_unknown_tasks_do_not_keep_others_from_being_deleted": patch(
        MemoryClient, "delete", delete_until_one_is_unknown
    ),
    "test_queues_are_the_same_with_and_without_a_view": patch(Store, "look_up", look_up_claims_of_any_age),
    "test_a_new_session_sees_the_whole_cluster": patch(Store, "feed", begin_with_an_empty_view),
    "test_join_and_leave_are_seen": patch(Store, "end_session", keep_the_session),
    "test_leaving_gives_up_every_claim": patch(Store, "end_session", keep_the_session),
    "test_an_expired_session_is_lost": patch(Store, "end_session", keep_the_session),
    "test_a_command_reaches_its_addressee_alone": patch(Store, "queue_command", send_to_every_node),
    "test_a_command_wakes_its_addressee": patch(MemorySession, "_apply", send_without_waking),
    "test_a_failed_request_is_reported_as_a_change": patch(MemorySession, "_apply", fail_silently),
    "test_the_view_shows_a_claim_before_it_stops_being_pending": patch(MemorySession, "_ask", answer_before_the_event),
    "test_a_request_changes_nothing_at_once": patch(MemorySession, "_ask", claim_at_once),
    "test_calls_after_the_end_have_no_effect": patch(MemorySession, "_ask", ask_after_the_end),
    "test_the_token_grows_with_every_owner": patch(Store, "number", a_falling_number),
    "test_a_cancelled_wait_loses_nothing": patch(Feed, "wait_changed", change_and_forget),
    "test_a_submitted_task_is_in_the_clients_own_view": patch(MemoryClient, "_catch_up", lagging),
}


@pytest.mark.parametrize("check", WRONG)
def test_caught(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug counts as caught if an assertion fails or a condition never comes true, with or without an
    ExceptionGroup of a nursery around it."""
    WRONG[check](monkeypatch)

    async def main(latency: float) -> None:
        await getattr(CoordinatorConformance(), check)(memory_subject(latency=latency))

    caught = 0
    for latency in (0.0, 0.1):
        try:
            trio.run(main, latency, clock=trio.testing.MockClock(autojump_threshold=0))
        except (AssertionError, trio.TooSlowError, ExceptionGroup):
            caught += 1
    assert caught > 0


# ---- the helpers


async def test_until_reported_returns_all_changes(autojump_clock: trio.testing.MockClock) -> None:
    coordinator = mt.MemoryCoordinator(latency=0.1)
    async with coordinator.open_session(mt.NodeInfo("a")) as a, trio.open_nursery() as nursery:

        async def submit() -> None:
            async with mt.open_client(coordinator) as client:
                for id in ("t1", "t2", "t3"):
                    await client.submit(mt.Task(id))
                    await trio.sleep(1)

        nursery.start_soon(submit)
        changes = await until_reported(a, lambda: "t2" in a.view.tasks)
        assert list(changes.tasks) == ["t1", "t2"]
        await eventually(a, lambda it: "t3" in it.view.tasks)


async def test_waiting_for_a_condition_times_out(autojump_clock: trio.testing.MockClock) -> None:
    async with mt.MemoryCoordinator().open_session(mt.NodeInfo("a")) as a:
        with pytest.raises(trio.TooSlowError):
            await eventually(a, lambda it: it.view.tasks)
        with pytest.raises(trio.TooSlowError):
            await until_reported(a, lambda: a.view.tasks)


def test_raises_the_expected_error() -> None:
    with raises(KeyError, "mine"):
        raise KeyError("mine")


@pytest.mark.parametrize("error, problem", [(None, "KeyError was not raised"), (KeyError("other"), "other")])
def test_raises_something_else(error: Exception | None, problem: str) -> None:
    def body() -> None:
        with raises(KeyError, "mine"):
            if error:
                raise error

    with pytest.raises(AssertionError, match=problem):
        body()
