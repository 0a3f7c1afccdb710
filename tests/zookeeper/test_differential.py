"""The simulated ZooKeeper against a real one: the same programs must give the same results.

This is a sample; `python -m stress.differential` runs for any time.
"""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metafora_trio_zookeeper._connection import Check, Create, WriteOp
from metafora_trio_zookeeper.testing.real import Ensemble
from metafora_trio_zookeeper.testing.simulated import _quorum as quorum
from metafora_trio_zookeeper.testing.simulated._client import Client
from metafora_trio_zookeeper.testing.simulated._tree import Outcome, Tree, Znode, _Draft, end_session, parent_of
from stress.differential.command import differ, draw_program, main, run_model, run_real
from stress.differential.programs import KINDS, Step, Trace, compare, count

Recorded = list[tuple[list[Step], str, Trace]]
PROGRAMS = 5


@pytest.fixture(scope="module")
def quiet_server() -> Iterator[Ensemble]:
    """A server with no other sessions: the end of one that another test left behind is a transaction too."""
    with Ensemble(1) as ensemble:
        yield ensemble


@settings(max_examples=15, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(rng=st.randoms(use_true_random=False))
def test_the_model_behaves_like_zookeeper(quiet_server: Ensemble, rng: random.Random) -> None:
    root = f"/d{uuid.uuid4().hex}"
    difference, _ = differ(draw_program(rng, root, steps=30), quiet_server.hosts, root)
    assert difference is None, difference


@pytest.fixture(scope="module")
def recorded(quiet_server: Ensemble) -> Recorded:
    """The results of some programs on a real server."""
    recorded: Recorded = []
    for seed in range(PROGRAMS):
        root = f"/r{seed}"
        program = draw_program(random.Random(seed), root)
        recorded.append((program, root, trio.run(run_real, program, quiet_server.hosts, root)))
    return recorded


def test_programs_have_something_to_compare(recorded: Recorded) -> None:
    happened = sum((count(program, real) for program, _, real in recorded), Counter[str]())
    assert [kind for kind in KINDS if not happened[kind]] == []


def test_the_model_agrees_with_what_was_recorded(recorded: Recorded) -> None:
    for program, root, real in recorded:
        assert compare(program, real, run_model(program, root)) is None


# ---- planted bugs, each of which must be found


def _sequence_counts_children(patch: pytest.MonkeyPatch) -> None:
    delete = _Draft.delete

    def wrong(self: _Draft, path: str, node: Znode) -> None:
        delete(self, path, node)
        above = self._get(parent_of(path))
        self.changes[parent_of(path)] = above._replace(creates=above.creates - 1)

    patch.setattr(_Draft, "delete", wrong)


def _check_is_ignored(patch: pytest.MonkeyPatch) -> None:
    carry_out = _Draft.carry_out

    def wrong(self: _Draft, op: WriteOp, session: int) -> str | None:
        return None if isinstance(op, Check) else carry_out(self, op, session)

    patch.setattr(_Draft, "carry_out", wrong)


def _no_events_at_the_end_of_a_session(patch: pytest.MonkeyPatch) -> None:
    def wrong(tree: Tree, paths: Sequence[str], *, zxid: int) -> Outcome:
        return end_session(tree, paths, zxid=zxid)._replace(events=())

    patch.setattr(quorum, "end_session", wrong)


def _ephemerals_have_children(patch: pytest.MonkeyPatch) -> None:
    create = _Draft._create

    def wrong(self: _Draft, op: Create, session: int) -> str:
        get = self._get
        self._get = lambda path: get(path)._replace(owner=0)  # type: ignore[method-assign]
        try:
            return create(self, op, session)
        finally:
            self._get = get  # type: ignore[method-assign]

    patch.setattr(_Draft, "_create", wrong)


def _a_one_shot_watch_leaves_the_recursive_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Client, "watch_once", lambda self, path: None)


@pytest.mark.parametrize(
    "plant",
    [
        _sequence_counts_children,
        _check_is_ignored,
        _no_events_at_the_end_of_a_session,
        _ephemerals_have_children,
        _a_one_shot_watch_leaves_the_recursive_one,
    ],
)
def test_a_bug_of_the_model_is_found(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    plant(monkeypatch)
    differences = [compare(program, real, run_model(program, root)) for program, root, real in recorded]
    assert any(differences)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """A short run finds no difference, but says that it has not covered everything."""
    assert main(["--ops", "1", "--json"]) == 1
    out, err = capsys.readouterr()
    assert '"disagreements": 0' in out
    assert "never happened" in err


def test_the_command_says_where_they_differ(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _check_is_ignored(monkeypatch)
    assert main(["--ops", "2000", "--seed", "5"]) == 1
    out, err = capsys.readouterr()
    assert "disagreements: 1" in out
    assert "of seed 5 differs: step" in err
