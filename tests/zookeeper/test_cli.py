"""The command on real ZooKeeper: tasks from submission to their end, doctor, and the demonstration with processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient

from metafora_trio import CoordinatorUnavailable, NodeInfo, Task, open_client
from metafora_trio.cli._main import main
from metafora_trio.testing.history import Verdict
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper.testing.real import Ensemble
from tests.support.processes import children, has_ended, wait_ended, wait_until

_WAIT = 30.0
_HANDLER = """
import time
import trio

async def handler(task):
    print("running", task.id, flush=True)
    if task.props.get("blocks") == task.node.partition(".")[0]:
        time.sleep(60)  # blocks the event loop for longer than any test waits
    if task.props.get("fail"):
        raise ValueError("as it was told")
    await trio.sleep(task.props.get("seconds", float("inf")))
"""


class Shell:
    """Runs the command in separate processes, which do not outlive the test.

    Args:
        url: the cluster.
        folder: the current folder of the commands, with `work.py` in it.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder
        self._started: list[subprocess.Popen[str]] = []
        (folder / "work.py").write_text(_HANDLER)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command."""
        # Keep the source folder importable, because perhaps only the package's metadata is installed.
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "metafora_trio.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self._folder,
            env={**os.environ, "METAFORA_URL": self.url},
        )
        self._started.append(process)
        return process

    def __call__(self, *arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
        """Run a command and return its exit code, stdout and stderr."""
        run = subprocess.run(
            [sys.executable, "-m", "metafora_trio.cli", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self._folder,
            env={**os.environ, "METAFORA_URL": self.url},
            timeout=4 * _WAIT,
        )
        return run.returncode, run.stdout, run.stderr

    def json(self, *arguments: str) -> Any:
        """Run a command that must succeed and return its output, parsed as JSON."""
        code, out, err = self(*arguments, "-o", "json")
        assert code == 0, err
        return json.loads(out)

    def stop(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def shell(standalone: Ensemble, namespace: str, tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(f"zk://{standalone.hosts}/{namespace}?session_timeout=4", tmp_path)
    yield shell
    shell.stop()


@contextmanager
def meddler(hosts: str) -> Iterator[Any]:
    """A plain ZooKeeper client, to inspect the namespace and meddle with it."""
    client: Any = KazooClient(hosts)
    client.start()
    try:
        yield client
    finally:
        client.stop()
        client.close()


@pytest.fixture
def zookeeper(standalone: Ensemble) -> Iterator[Any]:
    with meddler(standalone.hosts) as client:
        yield client


def line_with(text: str, process: subprocess.Popen[str]) -> str:
    """Return the next line of a process's stdout that contains `text`."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"{text!r} never came")


def test_from_submit_to_rm(shell: Shell, standalone: Ensemble, namespace: str) -> None:
    """One task fails and one ends. One runs until SIGTERM drains the node, and then waits for another node."""
    assert shell("ls") == (
        3,
        "",
        f"error: there is no namespace /{namespace} on ZooKeeper at {standalone.hosts}\n"
        "hint: is --url right? the first `metafora submit` or `run` creates it\n",
    )
    assert shell("submit", "first", "--props", '{"seconds": 0}')[2] == (
        f"created namespace /{namespace}\nsubmitted 1 task\n"
    )
    assert shell("rm", "first")[0] == 0
    node = shell.start("run", "work:handler", "--name", "ant", "--tag", "x")
    lines = '{"id": "bad", "props": {"fail": true}}\n{"id": "long"}\n{"id": "short", "props": {"seconds": 0.2}}\n'
    assert shell("submit", "-", stdin=lines) == (0, "bad\nlong\nshort\n", "submitted 3 tasks\n")
    assert shell("submit", "long")[0] == 4
    code, out, _ = shell("wait", "bad", "short", "--timeout", "20")
    assert (code, out.split()[3:]) == (
        1,
        ["bad", "failed", *["ValueError:", "as", "it", "was", "told"], "short", "completed"],
    )
    assert shell("wait", "long", "--timeout", "0.1")[0] == 6
    assert shell("submit", "short")[0] == 4
    (task,) = shell.json("ls")["tasks"]
    (ant,) = shell.json("nodes")["nodes"]
    assert (task["task"], task["state"], task["node"]) == ("long", "running", ant["node"])
    assert (ant["name"], ant["tasks"], ant["tags"]) == ("ant", 1, ["x"])
    (bad,) = shell.json("describe", "bad")["tasks"]
    assert bad["errors"][0]["traceback"].startswith("Traceback (most recent call last):\n")
    assert shell("describe", "nope")[0] == 3
    assert shell("rm", "bad", "nope") == (
        3,
        "bad\n",
        "error: no task 'nope'\nhint: `metafora ls --finished` lists what there is\n",
    )
    assert [task["task"] for task in shell.json("ls", "--finished")["tasks"]] == ["long", "short"]
    node.send_signal(signal.SIGTERM)
    out, err = node.communicate(timeout=_WAIT)
    assert node.returncode == 0, err
    assert sorted(out.split()) == sorted(["running", "bad", "running", "long", "running", "short"])
    assert "task long stopped (drained)" in err
    assert shell("ls", "--state", "unclaimed")[1].split()[5:] == ["BY", "long", "unclaimed", "-", "-"]


def test_commands_to_nodes(shell: Shell) -> None:
    """`nodes` shows a freeze, and a drain by command ends the process with exit code 0."""
    node = shell.start("run", "work:handler", "--name", "ant")
    assert shell("submit", "a")[0] == 0
    line_with("running a", node)
    assert shell("freeze", "ant")[0] == 0
    wait_until(lambda: shell.json("nodes")["nodes"][0]["frozen"])
    assert shell("unfreeze", "--all")[0] == 0
    wait_until(lambda: not shell.json("nodes")["nodes"][0]["frozen"])
    assert shell("balance", "nope")[0] == 3
    assert shell("drain", "ant", "--wait", "--timeout", "20") == (0, "", "node ant told to drain\n1 node drained\n")
    node.communicate(timeout=_WAIT)
    assert node.returncode == 0


@pytest.mark.parametrize("on_overrun", ["exit", "log"])
def test_blocked_node(standalone: Ensemble, namespace: str, tmp_path: Path, on_overrun: str) -> None:
    """By default, a node whose loop is blocked ends. With "log", others see it until the node gives its tasks up."""
    shell = Shell(f"zk://{standalone.hosts}/{namespace}?session_timeout=2", tmp_path)
    try:
        options = [] if on_overrun == "exit" else ["--on-overrun", on_overrun]
        ant = shell.start("run", "work:handler", "--name", "ant", *options)
        assert shell("submit", "-", stdin='{"id": "a", "props": {"blocks": "ant"}}')[0] == 0
        line_with("running a", ant)
        bee = shell.start("run", "work:handler", "--name", "bee")
        if on_overrun == "log":
            wait_until(lambda: "event loop has been blocked since" in shell("nodes")[1])
            assert "event loop has been blocked since" in shell("doctor")[1]
            assert shell.json("ls")["tasks"][0]["node"].startswith("ant.")
        line_with("running a", bee)
        if on_overrun == "exit":
            ant.communicate(timeout=_WAIT)
            assert ant.returncode == 70
    finally:
        shell.stop()


def test_doctor(shell: Shell, zookeeper: Any, namespace: str) -> None:
    """It reports on a namespace that does not exist, on a healthy one, and on one that was meddled with."""

    def doctor(code: int) -> dict[str, list[str]]:
        returned, out, err = shell("doctor", "--patience", "4", "-o", "json")
        assert returned == code, out + err
        found: dict[str, list[str]] = {"ok": [], "warning": [], "problem": []}
        for finding in json.loads(out)["findings"]:
            found[finding["level"]].append(finding["text"])
        return found

    assert doctor(0)["warning"] == [f"namespace /{namespace} does not exist yet"]
    assert zookeeper.exists(f"/{namespace}") is None
    node = shell.start("run", "work:handler", "--name", "ant")
    assert shell("submit", "a")[0] == 0
    line_with("running a", node)
    server, session, layout, clock, seqs, counts = doctor(0)["ok"]
    assert server.startswith("ZooKeeper 3.")
    assert session.endswith("timeout 4 s")
    assert layout.startswith(f'namespace /{namespace}: {{"layout": 2, "buckets": 64, "generation": ')
    assert clock.startswith("a write takes ")
    assert seqs == "highest sequence number 0 of 2,147,483,647"
    assert counts.startswith("1 node, 1 task: 1 running")
    assert sorted(zookeeper.get_children(f"/{namespace}")) == [
        "claims",
        "commands",
        "node_commands",
        "nodes",
        "states",
        "tasks",
    ]
    zookeeper.create(f"/{namespace}/node_commands/gone.aaaaaaaaaa~", b"{}", sequence=True)
    zookeeper.create(f"/{namespace}/tasks/00/not-in-its-bucket", b"{}")
    bucket = next(b for b in range(64) if zookeeper.get_children(f"/{namespace}/claims/{b:02}"))
    zookeeper.create(f"/{namespace}/claims/{bucket:02}/a~gone.aaaaaaaaaa~b~1200000000", b"")
    found = doctor(1)
    assert found["problem"] == ["highest sequence number 1,200,000,000 of 2,147,483,647"]
    assert found["warning"][-1] == f"not Metafora's, and ignored: /{namespace}/tasks/00/not-in-its-bucket"
    zookeeper.set(f"/{namespace}", b'{"layout": 3, "buckets": 64}')
    (problem,) = doctor(5)["problem"]
    assert "has layout 3" in problem
    code, _, err = shell("ls")
    assert code == 4
    assert "has layout 3" in err


def test_doctor_without_a_server(shell: Shell) -> None:
    """Without an answer it says what was tried, with exit code 5."""
    code, out, _ = shell("doctor", "--url", "zk://127.0.0.1:1/x?connect_timeout=1")
    assert code == 5
    assert "! ZooKeeper 127.0.0.1:1 does not answer\n" in out
    assert "✗ no answer from ZooKeeper at 127.0.0.1:1 within 1 s" in out
    code, _, err = shell("ls", "--url", "zk://127.0.0.1:1/x?connect_timeout=1")
    assert code == 5
    assert err.startswith("error: no answer from ZooKeeper at 127.0.0.1:1 within 1 s")


def test_demo_with_processes(ensemble: Ensemble, namespace: str, tmp_path: Path) -> None:
    """Three servers and three processes, one of them killed: no task is lost or runs twice, and nothing is left."""
    shell = Shell(f"zk://{ensemble.hosts}/{namespace}", tmp_path)
    code, out, err = shell("demo", "--seconds", "5", "--json")
    assert code == 0, err
    summary = json.loads(out.splitlines()[-1])
    wanted = {"ok": True, "tasks": 12, "nodes": 4, "crashes": 1, "tasks_lost": 0, "duplicate_runs": 0}
    assert {key: summary[key] for key in wanted} == wanted
    assert summary["moves"] >= 16  # more where the machine is slow: a node that joins late makes tasks move once more
    assert 2.0 < summary["longest_gap_seconds"] < 10.0
    with meddler(ensemble.hosts) as client:
        assert [name for name in client.get_children("/") if name.startswith(namespace)] == []


def test_demo_that_goes_wrong_shows_everything(
    standalone: Ensemble, namespace: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events and the nodes' output go to stderr, even with --json, because the nodes' files are gone afterwards."""
    monkeypatch.setattr("metafora_trio.cli._demo.command.check_history", lambda events: Verdict(lost=["task-01"]))
    assert main(["demo", "--seconds", "5", "--json", "--url", f"zk://{standalone.hosts}/{namespace}"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["ok"] is False
    shown, _, evidence = err.partition("error: a promise was broken; this is what happened:\n")
    assert "CRASH" in shown
    assert evidence.count('"ev": "start"') >= 12
    assert [f"node {name} said: " in evidence for name in ("ant", "bee", "cat", "dog")] == [True] * 4


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_demo_interrupted(shell: Shell, zookeeper: Any, namespace: str, number: int, code: int) -> None:
    """Ctrl-C stops every process and removes the namespace, even when a node has just been killed."""
    demo = shell.start("demo", "--seconds", "5")
    line_with("CRASH", demo)
    nodes = children(demo.pid)
    assert len(nodes) >= 2
    demo.send_signal(number)
    _, err = demo.communicate(timeout=_WAIT)
    assert (demo.returncode, err) == (code, "interrupted: stopping every node, and cleaning up\n")
    assert all(map(has_ended, nodes))
    assert [name for name in zookeeper.get_children("/") if name.startswith(namespace)] == []


def test_killed_demo_leaves_no_process(shell: Shell) -> None:
    """A demonstration's nodes end with it, even after SIGKILL, because their stdin ends."""
    demo = shell.start("demo")
    line_with("bee 4", demo)
    nodes = children(demo.pid)
    assert len(nodes) == 3
    demo.kill()
    wait_ended(nodes)


async def test_namespace_in_use_is_not_removed(standalone: Ensemble, namespace: str, zookeeper: Any) -> None:
    """It is refused while a node is alive. Then it removes everything, tasks and states too. Again, it does nothing."""
    coordinator = ZooKeeperCoordinator(
        standalone.hosts, namespace=f"/{namespace}", session_timeout=4, connect_timeout=2
    )
    async with open_client(coordinator) as client:
        await client.submit(Task(f"t{number}") for number in range(300))
    async with coordinator.open_session(NodeInfo("ant")):
        with pytest.raises(CoordinatorUnavailable, match=r"was not removed: nodes still joined: ant\.\w+"):
            await coordinator.remove()
    assert zookeeper.exists(f"/{namespace}/nodes")
    await coordinator.remove()
    assert zookeeper.exists(f"/{namespace}") is None
    await coordinator.remove()
