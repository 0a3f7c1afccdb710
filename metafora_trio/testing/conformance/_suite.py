"""The conformance suite: the behaviour that every coordinator must have, whatever its broker.

Subclass it in a file that pytest collects (with pytest-trio in trio mode), and give it a fixture `subject` with an
empty cluster for each test:

    class TestMyCoordinator(CoordinatorConformance):
        @pytest.fixture
        async def subject(self) -> AsyncGenerator[Subject]:
            yield Subject(MyCoordinator(...), expire=...)

Nothing here assumes virtual time or a fast broker: every wait is for a condition, with a time limit.
"""

from __future__ import annotations

from dataclasses import replace

import trio

from metafora_trio import InvalidName, NodeInfo, SessionLost, StateName, Task, TaskState
from metafora_trio.contract import ClaimKind, Session

from ._clients import ClientConformance
from ._ends import EndConformance
from ._subject import PATIENCE, Subject, eventually, get_claim, members, own, raises, submit, until_reported

__all__ = ["CoordinatorConformance"]

COMPLETED = TaskState(StateName.COMPLETED)


class MembershipConformance:
    """Joining, leaving, and losing a session."""

    async def test_join_and_leave_are_seen(self, subject: Subject) -> None:
        async with members(subject, "a") as (a,):
            async with members(subject, "b") as (b,):
                identity = b.node.identity
                await eventually(a, lambda it: identity in it.view.nodes)
                assert (b.node.name, b.view.nodes[identity]) == ("b", b.node)
            await eventually(a, lambda it: identity not in it.view.nodes)

    async def test_a_new_session_sees_the_whole_cluster(self, subject: Subject) -> None:
        """When the body begins, the view is complete and may be acted on."""
        await submit(subject, (), "t")
        async with members(subject, "a") as (a,):
            claim = await get_claim(a, "t")
            async with subject.coordinator.open_session(NodeInfo("b")) as b:
                assert b.current
                assert {a.node.identity, b.node.identity} == b.view.nodes.keys()
                assert (list(b.view.tasks), b.view.head("t")) == (["t"], claim)

    async def test_a_name_may_be_used_twice(self, subject: Subject) -> None:
        async with members(subject, "a", "a") as (first, second):
            assert first.node.identity != second.node.identity
            assert {node.name for node in first.view.nodes.values()} == {"a"}

    async def test_a_new_session_has_a_new_identity(self, subject: Subject) -> None:
        seen = set()
        for _ in range(3):
            async with members(subject, "a") as (a,):
                seen.add(a.node.identity)
        assert len(seen) == 3

    async def test_names_are_checked(self, subject: Subject) -> None:
        for name in ("", "a~b", "a/b", ".."):
            with raises(InvalidName):
                await subject.coordinator.open_session(NodeInfo(name)).__aenter__()

    async def test_other_nodes_see_an_announcement(self, subject: Subject) -> None:
        async with members(subject, "a", "b") as (a, b):
            announced = replace(a.node, draining=True, capacity=3, tags=frozenset({"gpu"}))
            a.announce(announced)
            assert a.node == announced
            await eventually(b, lambda it: it.view.nodes[announced.identity] == announced)
            await eventually(a, lambda it: it.view.nodes[announced.identity] == announced)

    async def test_leaving_gives_up_every_claim(self, subject: Subject) -> None:
        async with members(subject, "a") as (a,):
            await submit(subject, [a], "t1", "t2")
            async with members(subject, "b") as (b,):
                await get_claim(b, "t1", seen_by=[a])
                await get_claim(b, "t2", seen_by=[a])
            await eventually(a, lambda it: not it.view.head("t1") and not it.view.head("t2"))
            assert list(a.view.unclaimed) in (["t1", "t2"], ["t2", "t1"])

    async def test_cancelled_leaving_gives_up_every_claim(self, subject: Subject) -> None:
        """A claim in flight when the body is cancelled goes too, whether or not the broker had created it."""
        async with members(subject, "a") as (a,):
            await submit(subject, [a], "t1", "t2")
            identity = ""
            with trio.CancelScope() as scope:
                async with members(subject, "b") as (b,):
                    identity = b.node.identity
                    await get_claim(b, "t1", seen_by=[a])
                    b.claim("t2")
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
            await eventually(a, lambda it: identity not in it.view.nodes and not it.view.claims_of(identity))
            await get_claim(a, "t2")  # reaches the broker after anything that `b` may still have sent
            assert [claim.node for claim in a.view.queue("t2")] == [a.node.identity]

    async def test_exceptions_of_the_body_are_raised_unwrapped(self, subject: Subject) -> None:
        with raises(KeyError, "mine"):
            async with subject.coordinator.open_session(NodeInfo("a")):
                raise KeyError("mine")
        with raises(KeyError, "mine"):
            async with subject.coordinator.open_client():
                raise KeyError("mine")

    async def test_an_expired_session_is_lost(self, subject: Subject) -> None:
        async with members(subject, "watcher") as (watcher,):
            await submit(subject, [watcher], "t")
            identity, cancelled = "", False
            with raises(SessionLost):
                async with subject.coordinator.open_session(NodeInfo("a")) as a:
                    identity = a.node.identity
                    await get_claim(a, "t", seen_by=[watcher])
                    await subject.expire(a)
                    try:
                        with trio.fail_after(PATIENCE):
                            await trio.sleep_forever()
                    except trio.Cancelled:
                        cancelled = True
                        raise
            assert cancelled
            await eventually(watcher, lambda it: identity not in it.view.nodes and not it.view.head("t"))

    async def test_calls_after_the_end_have_no_effect(self, subject: Subject) -> None:
        async with members(subject, "watcher") as (watcher,):
            await submit(subject, [watcher], "t1", "t2")
            async with members(subject, "a") as (a,):
                claim = await get_claim(a, "t1")
            await eventually(watcher, lambda it: not it.view.head("t1"))
            a.claim("t1")
            a.bid("t2")
            a.announce(a.node)
            a.finish(claim, COMPLETED)
            a.release(claim)
            assert not a.is_pending("t1")
            await get_claim(watcher, "t1")
            await get_claim(watcher, "t2")
            assert list(watcher.view.nodes) == [watcher.node.identity]
            assert {claim.node for claim in watcher.view.claims()} == {watcher.node.identity}


class ClaimConformance:
    """The queue of claims."""

    async def test_a_claim_owns_an_unclaimed_task(self, subject: Subject) -> None:
        async with members(subject, "a", "b") as (a, b):
            await submit(subject, [a, b], "t")
            claim = await get_claim(a, "t", seen_by=[b])
            assert (claim.task, claim.node, claim.kind) == ("t", a.node.identity, ClaimKind.CLAIM)
            assert a.view.head("t") == b.view.head("t") == claim
            await eventually(a, lambda it: not it.is_pending("t") and it.outstanding == 0)

    async def test_a_request_changes_nothing_at_once(self, subject: Subject) -> None:
        """The view changes only while its user awaits. Until the answer arrives, the request is pending or leaving."""
        async with members(subject, "a") as (a,):
            await submit(subject, [a], "t")
            a.claim("t")
            assert (a.is_pending("t"), a.pending, a.view.head("t")) == (True, 1, None)
            assert a.outstanding >= 1
            await eventually(a, lambda it: not it.is_pending("t"))
            claim = own(a, "t")
            assert (a.pending, a.view.head("t")) == (0, claim)
            assert claim is not None
            a.release(claim)
            assert (a.is_leaving(claim), a.view.head("t")) == (True, claim)
            await eventually(a, lambda it: not it.is_leaving(claim))
            assert a.view.head("t") is None

    async def test_the_view_shows_a_claim_before_it_stops_being_pending(self, subject: Subject) -> None:
        """Otherwise the node would see neither, and claim again."""
        tasks = [f"t{n}" for n in range(50)]
        async with members(subject, "a") as (a,):
            await submit(subject, [a], *tasks)
            for task in tasks:
                a.claim(task)

            def all_decided(a: Session) -> bool:
                for task in tasks:
                    assert a.is_pending(task) or own(a, task)
                return a.pending == 0

            await eventually(a, all_decided)

    async def test_a_race_has_one_winner(self, subject: Subject) -> None:
        tasks = [f"t{n}" for n in range(30)]
        async with members(subject, "a", "b", "c") as sessions:
            await submit(subject, sessions, *tasks)
            for session in sessions:
                for task in tasks:
                    session.claim(task)
            identities = {session.node.identity for session in sessions}
            for session in sessions:
                await eventually(session, lambda it: all(len(it.view.queue(task)) == 3 for task in tasks))
            queues = [{task: list(session.view.queue(task)) for task in tasks} for session in sessions]
            assert queues[0] == queues[1] == queues[2]
            for queue in queues[0].values():
                assert {claim.node for claim in queue} == identities
                assert [claim.seq for claim in queue] == sorted({claim.seq for claim in queue})
            for session in sessions:
                for task in tasks:
                    mine = own(session, task)
                    if mine and mine != session.view.head(task):
                        session.release(mine)
            for session in sessions:
                await eventually(session, lambda it: all(list(it.view.queue(t)) == queues[0][t][:1] for t in tasks))

    async def test_a_bid_waits_behind_the_owner(self, subject: Subject) -> None:
        async with members(subject, "a", "b") as (a, b):
            await submit(subject, [a, b], "t")
            owner = await get_claim(a, "t", seen_by=[b])
            bid = await get_claim(b, "t", bid=True, seen_by=[a])
            assert list(a.view.queue("t")) == list(b.view.queue("t")) == [owner, bid]
            assert (bid.kind, bid.seq > owner.seq) == (ClaimKind.BID, True)

    async def test_a_handover_makes_the_heir_the_owner(self, subject: Subject) -> None:
        async with members(subject, "a", "b", "watcher") as (a, b, watcher):
            await submit(subject, [a, b, watcher], "t")
            owner = await get_claim(a, "t", seen_by=[b, watcher])
            heir = await get_claim(b, "t", bid=True, seen_by=[a, watcher])
            a.hand_over(owner, heir)

            def handed_over(watcher: Session) -> bool:
                assert watcher.view.head("t") in (owner, heir)  # never without an owner in between
                return watcher.view.head("t") == heir

            await eventually(watcher, handed_over)
            await eventually(b, lambda it: list(it.view.queue("t")) == [heir])
            await eventually(a, lambda it: list(it.view.queue("t")) == [heir] and it.outstanding == 0)

    async def test_a_handover_without_heir_changes_nothing(self, subject: Subject) -> None:
        async with members(subject, "a", "b") as (a, b):
            await submit(subject, [a, b], "t")
            owner = await get_claim(a, "t", seen_by=[b])
            heir = await get_claim(b, "t", bid=True, seen_by=[a])
            b.release(heir)
            await eventually(a, lambda it: list(it.view.queue("t")) == [owner])
            a.hand_over(owner, heir)
            assert a.is_leaving(owner)
            await eventually(a, lambda it: not it.is_leaving(owner))
            assert list(a.view.queue("t")) == [owner]

    async def test_a_bid_is_withdrawn_while_the_owner_has_its_claim(self, subject: Subject) -> None:
        async with members(subject, "a", "b") as (a, b):
            await submit(subject, [a, b], "t")
            owner = await get_claim(a, "t", seen_by=[b])
            bid = await get_claim(b, "t", bid=True)
            b.withdraw(bid, owner)
            await eventually(b, lambda it: list(it.view.queue("t")) == [owner] and not it.is_leaving(bid))

    async def test_a_bid_is_not_withdrawn_when_the_owner_has_gone(self, subject: Subject) -> None:
        async with members(subject, "a", "b") as (a, b):
            await submit(subject, [a, b], "t")
            owner = await get_claim(a, "t", seen_by=[b])
            bid = await get_claim(b, "t", bid=True, seen_by=[a])
            a.release(owner)
            await eventually(b, lambda it: it.view.head("t") == bid)
            b.withdraw(bid, owner)
            await eventually(b, lambda it: not it.is_leaving(bid))
            assert list(b.view.queue("t")) == [bid]

    async def test_exactly_one_of_handover_and_withdrawal_happens(self, subject: Subject) -> None:
        """Both are requested at the same time, many times. If both ever happened, the task would have no owner."""
        tasks = [f"t{n}" for n in range(30)]
        async with members(subject, "a", "b") as (a, b):
            await submit(subject, [a, b], *tasks)
            owners = {task: await get_claim(a, task, seen_by=[b]) for task in tasks}
            heirs = {task: await get_claim(b, task, bid=True, seen_by=[a]) for task in tasks}
            for n, task in enumerate(tasks):
                for session in (a, b) if n % 2 else (b, a):
                    if session is a:
                        a.hand_over(owners[task], heirs[task])
                    else:
                        b.withdraw(heirs[task], owners[task])
            for session in (a, b):
                await eventually(session, lambda it: it.outstanding == 0)
                await eventually(session, lambda it: all(len(it.view.queue(task)) == 1 for task in tasks))
            assert [a.view.head(task) for task in tasks] == [b.view.head(task) for task in tasks]

    async def test_a_failed_request_is_reported_as_a_change(self, subject: Subject) -> None:
        """Nothing changes at the broker, but the node must decide again."""
        async with members(subject, "a", "b") as (a, b):
            await submit(subject, [a, b], "t")
            owner = await get_claim(a, "t", seen_by=[b])
            heir = await get_claim(b, "t", bid=True, seen_by=[a])
            b.release(heir)
            await eventually(a, lambda it: list(it.view.queue("t")) == [owner] and it.outstanding == 0)
            a.take_changes()
            a.hand_over(owner, heir)
            changes = await until_reported(a, lambda: not a.is_leaving(owner))
            assert changes.everything or "t" in changes.tasks

    async def test_the_token_grows_with_every_owner(self, subject: Subject) -> None:
        """Also after the task is done and submitted again."""
        tokens = []
        async with members(subject, "a", "b") as (a, b), subject.coordinator.open_client() as client:
            await submit(subject, [a, b], "t")
            first = await get_claim(a, "t", seen_by=[b])
            heir = await get_claim(b, "t", bid=True, seen_by=[a])
            a.hand_over(first, heir)
            await eventually(b, lambda it: it.view.head("t") == heir)
            b.release(heir)
            await eventually(a, lambda it: it.view.head("t") is None)
            third = await get_claim(a, "t")
            a.finish(third, COMPLETED)
            await eventually(b, lambda it: "t" not in it.view.tasks and not it.view.head("t"))
            await client.submit([Task("t")], again=True)
            await eventually(b, lambda it: "t" in it.view.tasks)
            last = await get_claim(b, "t")
            tokens = [claim.seq for claim in (first, heir, third, last)]
        assert tokens == sorted(set(tokens))


class CoordinatorConformance(MembershipConformance, ClaimConformance, EndConformance, ClientConformance):
    """The whole suite. The docstring of this module shows how to use it."""
