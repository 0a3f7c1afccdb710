"""Paths and names: every name that is written can be parsed, and no other."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metafora_trio import Claim, InvalidTask, LayoutMismatch
from metafora_trio.contract import ClaimKind, StoredTask
from metafora_trio_zookeeper import ZooKeeperCoordinator, from_url
from metafora_trio_zookeeper._connection import ReadResult
from metafora_trio_zookeeper._layout import (
    GENERATION_EPOCH,
    TOMBSTONE,
    Layout,
    decode_record,
    is_tombstone,
    sequence_number,
)

LAYOUT = Layout("/metafora")
MARK = "x" * 10
names = st.from_regex(r"[A-Za-z0-9._:@=+-]{1,128}", fullmatch=True).filter(lambda name: name not in (".", ".."))
identities = st.builds("{}.{}".format, names, st.from_regex(r"[a-z0-9]{10}", fullmatch=True))
claims = st.builds(Claim, st.integers(0, 2**31 - 2), names, identities, st.sampled_from(ClaimKind))


@given(claims, st.integers(0, 2**31 - 1))
def test_a_claim_is_parsed_as_it_was_written(claim: Claim, generation: int) -> None:
    layout = Layout("/metafora")
    layout.generation, number = generation, claim.seq
    claim = replace(claim, seq=generation * 2**32 + number)
    path = layout.claim_path(claim)
    assert path == f"{layout.claim_prefix(claim.task, claim.node, claim.kind)}{number:010}"
    _, _, section, bucket, name = path.split("/")
    assert (section, layout.parse_claim(bucket, name)) == ("claims", claim)
    assert len(path) + 4 <= layout.claim_size(claim.task, claim.node) <= len(path) + 8


@given(
    st.sampled_from(["t", "n", f"t~n.{MARK}~c~", f"n.{MARK}~", ""]),
    st.text("ab.~/c0123456789-\u0661", max_size=60) | st.integers(0, 9).map(lambda digit: str(digit) * 6000),
    st.sampled_from(LAYOUT.buckets),
)
def test_any_name_is_parsed_or_refused(start: str, rest: str, bucket: str) -> None:
    """Anybody can make such a znode. An error would end every node that sees it: `int` refuses 4,301 digits."""
    name = start + rest
    LAYOUT.parse_claim(bucket, name)
    LAYOUT.parse_task(bucket, name)
    LAYOUT.parse_node(name)
    LAYOUT.parse_node_command(name)


@given(st.text("ab.~/c0123456789", max_size=60), st.sampled_from(LAYOUT.buckets))
def test_a_name_parsed_as_a_claim_is_the_name_of_that_claim(name: str, bucket: str) -> None:
    claim = LAYOUT.parse_claim(bucket, name)
    assert claim is None or LAYOUT.claim_path(claim) == f"/metafora/claims/{bucket}/{name}"


@pytest.mark.parametrize(
    "name",
    [
        f"t~n.{MARK}~c",
        f"t~n.{MARK}~c~123456789",
        f"t~n.{MARK}~c~00000000001",
        f"t~n.{MARK}~c~{2**32}",
        f"t~n.{MARK}~c~-000000001",
        f"t~n.{MARK}~c~000000000\u0661",
        f"t~n.{MARK}~x~0000000001",
        "t~n~c~0000000001",
        f"t~n.{MARK.upper()}~c~0000000001",
        f"t~u~n.{MARK}~c~0000000001",
        f"~n.{MARK}~c~0000000001",
        f"t~n.{MARK}~c~0000000001\n",
        "",
    ],
)
def test_names_that_are_not_claims(name: str) -> None:
    assert all(LAYOUT.parse_claim(bucket, name) is None for bucket in LAYOUT.buckets)


@given(names)
def test_a_task_is_parsed_in_its_own_bucket_only(task: str) -> None:
    right = LAYOUT.bucket(task)
    assert LAYOUT.task_path(task) == f"/metafora/tasks/{right}/{task}"
    assert LAYOUT.state_path(task) == f"/metafora/states/{right}/{task}"
    assert [bucket for bucket in LAYOUT.buckets if LAYOUT.parse_task(bucket, task)] == [right]


def test_the_bucket_never_changes() -> None:
    """Every stored path contains it."""
    assert [LAYOUT.bucket(task) for task in ("a", "task1", "task10")] == ["03", "43", "36"]


@given(identities, st.integers(0, 2**31 - 1))
def test_nodes_and_commands(identity: str, seq: int) -> None:
    assert LAYOUT.parse_node(LAYOUT.node_path(identity).rpartition("/")[2]) == identity
    name = f"{LAYOUT.node_command_prefix(identity)}{seq:010}".rpartition("/")[2]
    assert LAYOUT.node_command_path(name) == f"/metafora/node_commands/{name}"
    assert LAYOUT.parse_node_command(name) == (identity, seq)


@pytest.mark.parametrize("name", ["n", "n.short", f"n.{MARK}~1", f"{MARK}", f".{MARK}"])
def test_names_that_are_not_nodes(name: str) -> None:
    assert (LAYOUT.parse_node(name), LAYOUT.parse_node_command(f"{name}~1")) == (None, None)


def test_the_directories() -> None:
    directories = Layout("/a/b", 2).directories()
    assert len(directories) == 6 + 4 * 2
    assert directories[:6] == [
        f"/a/b/{name}" for name in ("nodes", "tasks", "claims", "states", "commands", "node_commands")
    ]
    assert "/a/b/commands/01" in directories


def test_the_record() -> None:
    data = LAYOUT.new_record(GENERATION_EPOCH + 217_000_000.9)
    assert json.loads(data) == {"layout": 2, "buckets": 64, "generation": 217_000_000}
    layout = Layout("/metafora")
    layout.check_record(data)
    assert layout.generation == 217_000_000
    for record, message in [
        (b'{"layout":3,"buckets":64}', "layout 3, made by a newer version .* uses layout 2"),
        (b'{"layout":1,"buckets":64}', "layout 1, made by an older version .* uses layout 2"),
        (b'{"layout":2,"buckets":32}', "buckets=32, not with buckets=64"),
        (b"{}", "not Metafora's"),
        (b"\xff", "not Metafora's"),
        (b"[]", "not Metafora's"),
        (b"1", "not Metafora's"),
        (b"[" * 100_000, "not Metafora's"),
        (b'{"layout":1e999,"buckets":64}', "not Metafora's"),
        (b'{"layout":2,"buckets":64,"generation":-1}', "not Metafora's"),
        (b'{"layout":2,"buckets":64,"generation":2147483648}', "not Metafora's"),
        (b'{"layout":2,"buckets":64,"generation":"1"}', "not Metafora's"),
        (b'{"layout":2,"buckets":64,"generation":NaN}', "not Metafora's"),
    ]:
        with pytest.raises(LayoutMismatch, match=message):
            layout.check_record(record)
        assert layout.generation == 217_000_000
    layout.check_record(b'{"layout":2,"buckets":64}')  # an older version made it
    assert layout.generation == 0


@pytest.mark.parametrize("now, generation", [(0.0, 0), (GENERATION_EPOCH - 1, 0), (1e12, 2**31 - 1)])
def test_a_clock_that_is_wrong_makes_no_generation_that_is_refused(now: float, generation: int) -> None:
    layout = Layout("/metafora")
    layout.check_record(layout.new_record(now))
    assert layout.generation == generation


def test_tokens_grow_with_the_generation_and_fit_into_64_bits() -> None:
    old, new, last = (Layout("/metafora") for _ in range(3))
    for layout, seconds in ((old, 217_000_000), (new, 217_000_001), (last, 2**31 - 1)):
        layout.check_record(layout.new_record(GENERATION_EPOCH + seconds))
    names = [f"t~n.{MARK}~c~{number:010}" for number in (2**31 - 2, 0, 2**31 - 2)]
    claims = [
        layout.parse_claim(layout.bucket("t"), name) for layout, name in zip((old, new, last), names, strict=True)
    ]
    tokens = [claim.seq for claim in claims if claim is not None]
    assert tokens == [217_000_000 * 2**32 + 2**31 - 2, 217_000_001 * 2**32, 2**63 - 2**31 - 2]
    assert [sequence_number(claim) for claim in claims if claim is not None] == [2**31 - 2, 0, 2**31 - 2]
    assert [old.claim_path(claim).rpartition("/")[2] for claim in claims if claim is not None] == names


@given(st.binary() | st.binary().map(lambda data: b'{"layout":2,"buckets":64,"x":' + data + b"}"))
@example(b'{"layout":1e999,"buckets":64}')
@example(b'{"layout":true,"buckets":64}')
@example(b'{"layout":2,"buckets":0}')
@example(b"[" * 5000)
@example(b'{"layout":2,"buckets":64,"x":"' + b"x" * 5000 + b'"}')
@example(b'{"layout":2,"buckets":64,"generation":7}')
def test_any_record(data: bytes) -> None:
    """Whatever stands in the root is this layout's record, or is reported as something else."""
    try:
        LAYOUT.check_record(data)
    except LayoutMismatch as error:
        check_message(error)
    else:
        assert json.loads(data)["layout"] == 2


def check_message(error: LayoutMismatch) -> None:
    assert str(error).startswith("/metafora ")


@pytest.mark.parametrize(
    "namespace", ["", "/", "metafora", "/a//b", "/a b", "/a/../b", "/zookeeper", "/zookeeper/x", "/ä"]
)
def test_bad_namespaces(namespace: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        Layout(namespace)


def test_namespaces() -> None:
    assert Layout("/a/b/").root == "/a/b"
    with pytest.raises(ValueError, match="buckets is 0"):
        Layout("/a", 0)


def test_records() -> None:
    def stored(data: bytes, version: int = 0) -> ReadResult:
        return ReadResult(data, version, 0, 0)

    assert decode_record("t", None) is None
    assert decode_record("t", stored(b'{"a":1}')) == StoredTask({"a": 1}, 0)
    assert decode_record("t", stored(TOMBSTONE, 1)) == StoredTask({}, 1)
    with pytest.raises(InvalidTask, match="task 't'"):
        decode_record("t", stored(b"[]"))


class TestUrl:
    def test_all_of_it(self) -> None:
        coordinator = from_url("zk://a:1,[::1]:2,c/some/where?session_timeout=4&connect_timeout=2.5&buckets=8")
        assert (coordinator.hosts, coordinator.namespace) == ("a:1,[::1]:2,c", "/some/where")
        assert (coordinator.session_timeout, coordinator.connect_timeout) == (4.0, 2.5)
        assert len(coordinator._layout().buckets) == 8

    def test_defaults(self) -> None:
        for url in ("zk://a", "zk://a/"):
            assert (from_url(url).namespace, from_url(url).session_timeout) == ("/metafora", 10.0)
        assert from_url("zk://a", session_timeout=5.0).session_timeout == 5.0

    @pytest.mark.parametrize(
        "url, message",
        [
            ("http://a", "not a ZooKeeper URL"),
            ("zk:///metafora", "names no host"),
            ("zk://user:secret@a", "do not belong in a URL"),
            ("zk://a?timeout=4", r"unknown option 'timeout' \(known: session_timeout"),
            ("zk://a?session_timeout=long", "session_timeout is 'long', not a number"),
            ("zk://a?session_timeout=1", "session_timeout is 1 s; it must be from 2 s to a day"),
            ("zk://a?session_timeout=nan", "session_timeout"),
            ("zk://a?connect_timeout=0", "connect_timeout is 0 s"),
            ("zk://a?buckets=1.5", "buckets is '1.5'"),
            ("zk://a:port", "'a:port' is not 'host:port'"),
            ("zk://a:65536", "'a:65536' is not 'host:port'"),
            ("zk://a, b", "' b' is not 'host:port'"),
            ("zk://a/b c", "namespace '/b c'"),
            ("zk://a#b", "has a fragment, 'b'"),
        ],
    )
    def test_the_error_names_the_fault(self, url: str, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            from_url(url)
        assert "secret" not in str(caught.value)

    def test_a_chroot_in_the_hosts_is_refused(self) -> None:
        with pytest.raises(ValueError, match="pass a chroot as the namespace"):
            ZooKeeperCoordinator("a:1/root")


def test_importing_is_quick() -> None:
    """kazoo is only imported for the first connection."""
    code = "import sys, metafora_trio_zookeeper as z; z.from_url('zk://a'); print('kazoo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("number", ["2147483647", "-2147483648", "-2147483647"])
def test_numbers_after_the_last_one_make_no_claim(number: str) -> None:
    """Several claims get them, so the head of a queue would depend on names, and tokens would not grow."""
    layout = Layout("/m", 1)
    assert layout.parse_claim("00", f"t~a.0123456789~c~{number}") is None
    assert layout.used_up == {"00"}


def test_the_last_number_that_makes_a_claim() -> None:
    layout = Layout("/m", 1)
    claim = layout.parse_claim("00", "t~a.0123456789~c~2147483646")
    assert claim is not None
    assert claim.seq == 2**31 - 2
    assert layout.parse_claim("00", "t~a.0123456789~c~-") is None
    assert layout.parse_claim("00", "t~a.0123456789~c~9999999999") is None  # ZooKeeper makes no such name
    assert layout.used_up == set()


def test_a_tombstone_is_a_change_to_just_these_data() -> None:
    """Not properties that look like it from the submit on, and not an operator's other data."""
    assert is_tombstone(ReadResult(TOMBSTONE, 1, 0, 0))
    assert not is_tombstone(ReadResult(TOMBSTONE, 0, 0, 0))
    assert not is_tombstone(ReadResult(b"{}", 1, 0, 0))
    assert not is_tombstone(ReadResult(TOMBSTONE + b" ", 1, 0, 0))


@pytest.mark.parametrize("buckets, allowed", [(0, False), (1, True), (1024, True), (1025, False)])
def test_from_1_to_1024_buckets(buckets: int, allowed: bool) -> None:
    if allowed:
        layout = Layout("/m", buckets)
        assert len(layout.buckets) == buckets
        layout.check_record(layout.new_record(GENERATION_EPOCH))
    else:
        with pytest.raises(ValueError, match=f"buckets is {buckets}"):
            Layout("/m", buckets)
