"""koalemosd and koalemosctl as processes, on real ZooKeeper: a program never runs twice, however its daemon fails.

Every program takes a lock that its whole process group then holds, and records its group, its fencing token, and
whether it got the lock. The kernel frees the lock when the last process of the group is dead, so a run that did not get
it overlapped with another. The fixture `cluster` checks that none did.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from metafora_trio_zookeeper.testing.real import Ensemble, free_ports
from tests.support.process_groups import SOON, group_runs, until

EXAMPLES = Path(__file__).parents[2] / "examples"
SESSION_TIMEOUT = 3


@dataclass
class Daemon:
    """A koalemosd, and its log."""

    process: trio.Process
    log: Path

    def says(self, text: str) -> bool:
        return text in self.log.read_text()


@dataclass
class Cluster:
    """Two daemons, ant and bee, and the records that programs have written."""

    url: str
    folder: Path
    daemons: dict[str, Daemon] = field(default_factory=dict)

    @property
    def runs(self) -> list[tuple[int, int]]:
        """Return the group and token of each run so far."""
        return [(int(group), int(token)) for group, token, _ in self._lines()]

    @property
    def overlaps(self) -> int:
        """Return how many runs began before another was over."""
        return sum(alone != "alone" for _, _, alone in self._lines())

    def _lines(self) -> list[list[str]]:
        file = self.folder / "runs"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def script(self, then: str) -> list[str]:
        """Return the arguments of a program that first records its run and then does `then`."""
        write_down = f'echo "$$ $KOALEMOS_TOKEN $how" >>{self.folder}/runs'
        return ["sh", "-c", f"exec 9>{self.folder}/lock; flock -n 9 && how=alone || how=overlap; {write_down}; {then}"]

    async def started(self, count: int = 1) -> None:
        await until(lambda: len(self.runs) >= count)

    def daemon_of(self, group: int) -> tuple[Daemon, Daemon]:
        """Return the daemon that runs a group, and the other one."""
        ant, bee = self.daemons.values()
        return (ant, bee) if ant.says(f": process {group} runs") else (bee, ant)

    async def koalemosctl(self, *arguments: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(EXAMPLES / "koalemosctl.py"), *arguments]
        environment = {**os.environ, "METAFORA_URL": self.url if url is None else url}
        with trio.fail_after(30):
            done = await trio.run_process(
                command, capture_stdout=True, capture_stderr=True, check=False, env=environment
            )
        return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


@asynccontextmanager
async def open_daemon(cluster: Cluster, name: str, *options: str) -> AsyncGenerator[Daemon]:
    """Run a koalemosd that has joined; kill it and its programs at the end."""
    path = cluster.folder / f"{name}.log"
    with path.open("wb") as log:
        command = [sys.executable, str(EXAMPLES / "koalemosd.py"), "--url", cluster.url, "--name", name, *options]
        process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL, stderr=log)
    try:
        daemon = cluster.daemons[name] = Daemon(process, path)
        await until(lambda: daemon.says("SessionOpened"))
        yield daemon
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@pytest.fixture
async def cluster(standalone: Ensemble, namespace: str, tmp_path: Path) -> AsyncGenerator[Cluster]:
    found = Cluster(f"zk://{standalone.hosts}/{namespace}?session_timeout={SESSION_TIMEOUT}", tmp_path)
    async with AsyncExitStack() as stack:
        for name in ("ant", "bee"):
            await stack.enter_async_context(open_daemon(found, name, "--grace", "2"))
        yield found
    await until(lambda: not any(group_runs(group) for group, _ in found.runs))
    assert found.overlaps == 0


async def submit(cluster: Cluster, *arguments: str) -> str:
    """Submit a task, wait until its program has started, and return the task's id."""
    done = await cluster.koalemosctl(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    await cluster.started()
    return done.stdout.strip()


async def test_killed_daemon_takes_its_program_with_it(cluster: Cluster) -> None:
    """SIGKILL to a daemon: the whole group is gone before the task starts on the other, with a higher token."""
    await submit(cluster, *cluster.script("trap '' TERM; sleep 1000 & wait; wait"))
    [(group, token)] = cluster.runs
    victim, other = cluster.daemon_of(group)
    victim.process.kill()
    await until(lambda: not group_runs(group), timeout=1)
    assert len(cluster.runs) == 1
    await cluster.started(2)
    next_group, next_token = cluster.runs[1]
    assert next_token > token
    assert group_runs(next_group)
    assert other.says(f": process {next_group} runs")
    assert victim.says("koalemosd has ended: killed 1 of its process groups")


async def test_frozen_daemon_loses_its_program_with_the_lease(cluster: Cluster) -> None:
    """SIGSTOP to a daemon: its reaper kills the group at the end of the lease, before the task starts on the other.
    After SIGCONT, the daemon joins again, and the task stays on the other."""
    await submit(cluster, *cluster.script("sleep 1000"))
    [(group, _)] = cluster.runs
    frozen, _ = cluster.daemon_of(group)
    frozen.process.send_signal(signal.SIGSTOP)
    await until(lambda: not group_runs(group), timeout=SESSION_TIMEOUT)
    assert len(cluster.runs) == 1
    await cluster.started(2)
    frozen.process.send_signal(signal.SIGCONT)
    await until(lambda: frozen.log.read_text().count("SessionOpened") == 2)
    await trio.sleep(0.5)
    assert len(cluster.runs) == 2
    assert group_runs(cluster.runs[1][0])


async def test_drain_hands_over(cluster: Cluster) -> None:
    """SIGTERM to a daemon: the program gets SIGTERM and may finish, then the task starts on the other; exit 0."""
    await submit(cluster, *cluster.script("trap 'echo goodbye; exit' TERM; sleep 1000 & wait"))
    [(group, _)] = cluster.runs
    leaving, other = cluster.daemon_of(group)
    leaving.process.terminate()
    await cluster.started(2)
    assert not group_runs(group)
    assert other.says(f": process {cluster.runs[1][0]} runs")
    with trio.fail_after(SOON):
        assert await leaving.process.wait() == 0
    assert leaving.says("| goodbye")


async def test_second_signal_stops_at_once(cluster: Cluster) -> None:
    """A second signal cuts short a drain that waits for a program: exit 1, and the task starts on the other."""
    await submit(cluster, *cluster.script("trap '' TERM; sleep 1000 & wait; wait"))
    [(group, _)] = cluster.runs
    leaving, _ = cluster.daemon_of(group)
    leaving.process.send_signal(signal.SIGINT)
    await until(lambda: leaving.says("draining; a second signal"))
    leaving.process.send_signal(signal.SIGINT)
    with trio.fail_after(SOON):
        assert await leaving.process.wait() == 1
    assert not group_runs(group)
    await cluster.started(2)


async def test_wait_follows_to_the_exit_code(cluster: Cluster) -> None:
    """`--wait` gives the program's exit code and the end of its stderr, or a shell's code if it could not be run."""
    done = await cluster.koalemosctl("--wait", "sh", "-c", "echo out; echo first >&2; echo last >&2; exit 7")
    assert done.returncode == 7
    assert done.stderr.splitlines()[-3:] == ["ProgramFailed: exit code 7", "first", "last"]
    missing = await cluster.koalemosctl("--wait", "no-such-program")
    assert missing.returncode == 127
    assert "not found" in missing.stderr
    fine = await cluster.koalemosctl("--wait", "--id", "mine", "true")
    assert (fine.returncode, fine.stdout, fine.stderr) == (0, "mine\n", "")
    again = await cluster.koalemosctl("--id", "mine", "true")
    assert (again.returncode, again.stdout) == (4, "")
    assert again.stderr.startswith("error: ")
    assert "mine" in again.stderr


async def test_interrupted_wait(cluster: Cluster) -> None:
    """Ctrl-C ends only the waiting: exit 130, and the program keeps running."""
    command = [sys.executable, str(EXAMPLES / "koalemosctl.py"), "--url", cluster.url, "--wait"]
    process = await trio.lowlevel.open_process([*command, *cluster.script("sleep 1000")], stdout=subprocess.DEVNULL)
    await cluster.started()
    process.send_signal(signal.SIGINT)
    with trio.fail_after(SOON):
        assert await process.wait() == 130
    assert group_runs(cluster.runs[0][0])


@pytest.mark.parametrize("program", ["koalemosd.py", "koalemosctl.py"])
@pytest.mark.parametrize(
    "options, code, message",
    [
        ((), 2, "--url or METAFORA_URL is needed"),
        (("--url", "http://127.0.0.1/x"), 2, "http"),
        (("--url", "UNREACHABLE"), 5, "error: "),
        (("--no-such-option",), 2, "usage: "),
    ],
)
def test_exit_codes(program: str, options: tuple[str, ...], code: int, message: str) -> None:
    """Both commands say in one line what is wrong."""
    unreachable = f"zk://127.0.0.1:{free_ports(1)[0]}/none?connect_timeout=1"
    arguments = [unreachable if option == "UNREACHABLE" else option for option in options]
    command = [sys.executable, str(EXAMPLES / program), *arguments]
    if program == "koalemosctl.py":
        command += ["sleep", "3"]
    environment = {name: value for name, value in os.environ.items() if name != "METAFORA_URL"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30, env=environment)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
