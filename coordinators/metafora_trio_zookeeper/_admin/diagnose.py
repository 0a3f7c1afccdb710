"""Diagnosis of a ZooKeeper ensemble and a namespace in it, for `metafora doctor`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator

import trio

from metafora_trio import CoordinatorUnavailable, LayoutMismatch
from metafora_trio.contract import MIN_SESSION_TIMEOUT, Diagnosis, Finding, Level
from metafora_trio_zookeeper._connection import Connection, Create, Delete, ReadResult, RequestError
from metafora_trio_zookeeper._layout import LAST_SEQUENCE, MAX_OPS, Layout, sequence_number
from metafora_trio_zookeeper._plain_connection import children_of, open_connection
from metafora_trio_zookeeper._replies import ask, read_one
from metafora_trio_zookeeper._server_status import ServerStatus, server_status

__all__ = ["diagnose"]

_SERVER_TIMEOUT = 2.0
_OLDEST = (3, 6)
"""The first version of ZooKeeper with persistent recursive watches."""
_SKEW = 1.0
"""Seconds by which clocks may differ without a warning. Only the times that people read depend on them."""
_SLOW = 0.1
"""Seconds above which a write is reported as slow, because every heartbeat is a write."""


async def diagnose(
    connect: Callable[[], Connection], layout: Layout, *, hosts: str, asked_timeout: float, patience: float
) -> Diagnosis:
    """Check the servers, the connection and the namespace. A checkpoint.

    Creates one ephemeral znode in the root of the namespace and deletes it, to read the server's clock.

    Args:
        connect: makes a connection.
        layout: the namespace.
        hosts: `host:port,host:port`.
        asked_timeout: the requested session timeout, in seconds.
        patience: seconds to wait for a server.
    """
    findings = await _servers(hosts)
    usable = False
    try:
        async with open_connection(connect, hosts=hosts, patience=patience) as connection:
            findings.append(_session(connection, asked_timeout))
            root = await read_one(connection, layout.root)
            findings.append(_root(layout, root))
            if findings[-1].level is Level.OK:
                findings.append(await _clock(connection, layout))
                findings += await _contents(connection, layout)
                usable = True
    except CoordinatorUnavailable as error:
        hint = "is a quorum of the servers running, and can this machine reach them?"
        findings.append(Finding(Level.PROBLEM, str(error), hint))
    except RequestError as error:
        findings.append(Finding(Level.PROBLEM, f"ZooKeeper at {hosts} refuses: {error}"))
    return Diagnosis(findings, usable)


# ---- servers and session


async def _servers(hosts: str) -> list[Finding]:
    """Return one finding for each server, in the order of the hosts."""
    answers: dict[str, ServerStatus | None] = {}

    async def look(address: str) -> None:
        host, _, port = address.rpartition(":")
        if not port.isdigit():
            host, port = address, "2181"
        answers[address] = await server_status(host.strip("[]"), int(port), _SERVER_TIMEOUT)

    addresses = hosts.split(",")
    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(look, address)
    return [_server(address, answers[address]) for address in addresses]


def _server(address: str, status: ServerStatus | None) -> Finding:
    if status is None:
        hint = "it is down or unreachable, its port speaks TLS, or its 4lw.commands.whitelist lacks `srvr`"
        return Finding(Level.WARNING, f"ZooKeeper {address} does not answer", hint)
    if not status.version:
        return Finding(
            Level.PROBLEM, f"ZooKeeper {address} is not serving: it has no quorum", "start the other servers"
        )
    text = f"ZooKeeper {status.version}  {address}  {status.mode}, {status.connections} connections"
    if tuple(map(int, status.version.split(".")[:2])) < _OLDEST:
        return Finding(Level.PROBLEM, text, "Metafora needs ZooKeeper 3.6 or newer")
    low, average, high = status.latency_ms
    return Finding(Level.OK, f"{text}, latency {low:g}/{average:g}/{high:g} ms (min/avg/max)")


def _session(connection: Connection, asked: float) -> Finding:
    granted = connection.session_timeout
    text = f"session through {connection.server}, timeout {granted:g} s"
    if granted < MIN_SESSION_TIMEOUT:
        hint = f"nodes need at least {MIN_SESSION_TIMEOUT:g} s: raise maxSessionTimeout (or tickTime) on the servers"
        return Finding(Level.PROBLEM, text, hint)
    if abs(granted - asked) > 0.01:
        hint = "the servers clamp it to minSessionTimeout..maxSessionTimeout, by default 2 to 20 ticks"
        return Finding(Level.WARNING, f"{text}, although {asked:g} s was requested", hint)
    return Finding(Level.OK, text)


# ---- the namespace


def _root(layout: Layout, root: ReadResult | None) -> Finding:
    if root is None:
        hint = "the first node that joins, or the first submit, creates it; or is the URL wrong?"
        return Finding(Level.WARNING, f"namespace {layout.root} does not exist yet", hint)
    try:
        layout.check_record(root.data)
        layout.check_acl()
    except LayoutMismatch as error:
        hint = "is it the right namespace, and the right version and settings of metafora-trio?"
        return Finding(Level.PROBLEM, str(error), hint)
    return Finding(Level.OK, f"namespace {layout.root}: {root.data.decode()}")


async def _contents(connection: Connection, layout: Layout) -> list[Finding]:
    directories = [path for path in layout.directories() if path.count("/") > layout.root.count("/") + 1]
    paths = [layout.nodes, layout.node_commands, *directories]
    listed = dict(zip(paths, await children_of(connection, paths), strict=True))
    return [
        *_undeliverable(layout, listed),
        *await _strange_nodes(connection, layout, listed),
        *await _without_node(connection, layout, listed),
        *_sequence_numbers(layout, listed),
        *_names(layout, listed),
    ]


async def _clock(connection: Connection, layout: Layout) -> Finding:
    """Compare the server's clock with ours, and measure how long a write takes."""
    path = f"{layout.root}/doctor-{secrets.token_hex(8)}"
    began, clock = trio.current_time(), time.time()
    try:
        await ask(lambda done: connection.transact([Create(path, ephemeral=True)], done))
        took = trio.current_time() - began
        made = await read_one(connection, path)
        await ask(lambda done: connection.transact([Delete(path)], done))
    except RequestError as error:
        return Finding(Level.PROBLEM, f"cannot write in {layout.root}: {error}", "do the credentials permit it?")
    skew = 0.0 if made is None else clock + took / 2 - made.mtime_ms / 1000
    text = f"a write takes {took * 1000:.1f} ms; this machine's clock is {abs(skew):.2f} s " + (
        "ahead of ZooKeeper's" if skew > 0 else "behind ZooKeeper's"
    )
    if took > _SLOW:
        return Finding(Level.WARNING, text, "heartbeats are writes: put the servers' logs on a disk of their own")
    if abs(skew) > _SKEW:
        return Finding(Level.WARNING, text, "no promise depends on it, but error times and node ages are wrong")
    return Finding(Level.OK, text)


def _undeliverable(layout: Layout, listed: dict[str, list[str]]) -> Iterator[Finding]:
    """Report commands addressed to nodes that are gone."""
    nodes = set(listed[layout.nodes])
    queued = map(layout.parse_node_command, listed[layout.node_commands])
    count = sum(command is not None and command[0] not in nodes for command in queued)
    if count:
        hint = "harmless: a node deletes them soon, if one runs"
        yield Finding(Level.WARNING, f"{count} commands for nodes that are gone", hint)


async def _read(connection: Connection, paths: list[str]) -> list[tuple[str, ReadResult | RequestError | None]]:
    """Read some znodes, and return each with its path."""
    found: list[tuple[str, ReadResult | RequestError | None]] = []
    for first in range(0, len(paths), MAX_OPS):
        chunk = paths[first : first + MAX_OPS]
        records = (await ask(lambda done, chunk=chunk: connection.read(chunk, done))).value  # type: ignore[misc]
        found += zip(chunk, records, strict=True)
    return found


async def _strange_nodes(connection: Connection, layout: Layout, listed: dict[str, list[str]]) -> list[Finding]:
    """Report nodes whose record these credentials may not read, and znodes that are no node of any session."""
    paths = [layout.node_path(name) for name in listed[layout.nodes] if layout.parse_node(name)]
    records = await _read(connection, paths)
    unreadable = [path for path, record in records if isinstance(record, RequestError)]
    persistent = [path for path, record in records if isinstance(record, ReadResult) and not record.ephemeral_owner]
    findings = []
    if unreadable:
        hint = (
            "no node can join beside them, because events of what may not be read are hidden: give all nodes and "
            "clients the same credentials and ACLs, or delete the znode if somebody made it by hand"
        )
        findings.append(Finding(Level.PROBLEM, f"cannot read the record of nodes: {_some(unreadable)}", hint))
    if persistent:
        hint = "not ephemeral, so somebody made them by hand; nodes ignore them: delete them by hand"
        findings.append(Finding(Level.WARNING, f"nodes that belong to no session: {_some(persistent)}", hint))
    return findings


async def _without_node(connection: Connection, layout: Layout, listed: dict[str, list[str]]) -> list[Finding]:
    """Report claims whose node has no znode, by whether they belong to a session."""
    nodes = set(listed[layout.nodes])
    found: list[str] = []
    for bucket in layout.buckets:
        claims = (layout.parse_claim(bucket, name) for name in listed[f"{layout.claims}/{bucket}"])
        found += [layout.claim_path(claim) for claim in claims if claim is not None and claim.node not in nodes]
    persistent: list[str] = []
    ephemeral: list[str] = []
    unreadable: list[str] = []
    for path, record in await _read(connection, found):
        if isinstance(record, ReadResult):
            (ephemeral if record.ephemeral_owner else persistent).append(path)
        elif record is not None:
            unreadable.append(path)
    findings = []
    if persistent:
        hint = "not ephemeral, so somebody made them by hand; a node removes them after two session timeouts"
        findings.append(Finding(Level.WARNING, f"claims that belong to no session: {_some(persistent)}", hint))
    if ephemeral:
        hint = "they go with their session, soon if it is alive; if there is no such session, delete them by hand"
        findings.append(Finding(Level.WARNING, f"claims of sessions without a node: {_some(ephemeral)}", hint))
    if unreadable:
        hint = "no node of this cluster made them, and none can remove them: their tasks wait until they are deleted"
        findings.append(Finding(Level.PROBLEM, f"claims without a node that cannot be read: {_some(unreadable)}", hint))
    return findings


def _some(things: list[str]) -> str:
    more = f" and {len(things) - 3} more" if len(things) > 3 else ""
    return f"{', '.join(things[:3])}{more}"


def _sequence_numbers(layout: Layout, listed: dict[str, list[str]]) -> Iterator[Finding]:
    """Report the highest sequence number of a command or claim."""
    queued = map(layout.parse_node_command, listed[layout.node_commands])
    seqs = [command[1] for command in queued if command is not None]
    for bucket in layout.buckets:
        claims = (layout.parse_claim(bucket, name) for name in listed[f"{layout.claims}/{bucket}"])
        seqs += [sequence_number(claim) for claim in claims if claim is not None]
    highest = LAST_SEQUENCE if layout.used_up else max(seqs, default=0)
    text = f"highest sequence number {highest:,} of {LAST_SEQUENCE:,}"
    if highest > LAST_SEQUENCE // 2:
        hint = "after the last number, nothing can be claimed in that bucket: move to a new namespace in time"
        yield Finding(Level.PROBLEM, text, hint)
    elif seqs:
        yield Finding(Level.OK, text)


def _names(layout: Layout, listed: dict[str, list[str]]) -> Iterator[Finding]:
    """Report the names in the directories that Metafora did not write. Nodes ignore them."""
    strange = [f"{layout.nodes}/{name}" for name in listed[layout.nodes] if layout.parse_node(name) is None]
    strange += [
        f"{layout.node_commands}/{name}"
        for name in listed[layout.node_commands]
        if layout.parse_node_command(name) is None
    ]
    for bucket in layout.buckets:
        for directory in (layout.tasks, layout.states):
            path = f"{directory}/{bucket}"
            strange += [f"{path}/{name}" for name in listed[path] if layout.parse_task(bucket, name) is None]
        path = f"{layout.claims}/{bucket}"
        strange += [f"{path}/{name}" for name in listed[path] if layout.parse_claim(bucket, name) is None]
    if strange:
        yield Finding(Level.WARNING, f"not Metafora's, and ignored: {_some(strange)}", "who wrote it?")
