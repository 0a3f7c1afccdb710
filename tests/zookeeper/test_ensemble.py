"""The ensemble that the tests run on: it starts, fails and recovers on demand."""

from __future__ import annotations

import inspect
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import get_type_hints

import pytest
import trio

from metafora_trio_zookeeper.testing.real import (
    Ensemble,
    EnsembleError,
    EnsembleOptions,
    ZooKeeperNotInstalled,
    free_ports,
    open_ensemble,
)
from metafora_trio_zookeeper.testing.real._install import java_command
from tests.support.processes import wait_ended, wait_until

to_thread = trio.to_thread.run_sync


def test_leader_and_followers(ensemble: Ensemble) -> None:
    leader, followers = ensemble.leader(), ensemble.followers()
    assert leader is not None
    assert {leader, *followers} == set(ensemble.servers)
    assert [ensemble.server(address) for address in ensemble.hosts.split(",")] == ensemble.servers


def test_kill_and_restore(ensemble: Ensemble) -> None:
    leader = ensemble.leader()
    assert leader is not None
    leader.kill()
    assert not leader.alive
    assert leader.mode() is None
    with pytest.raises(ProcessLookupError):
        leader.pause()
    ensemble.wait_ready()
    assert ensemble.leader() not in (leader, None)
    ensemble.restore()
    assert leader.mode() == "follower"


def test_pause_and_resume(ensemble: Ensemble) -> None:
    follower = ensemble.followers()[0]
    follower.pause()
    assert follower.alive
    assert follower.mode() is None
    follower.resume()
    ensemble.wait_ready()
    wait_until(lambda: follower.mode() == "follower")


def test_isolate_and_heal(linked_ensemble: Ensemble) -> None:
    """The isolated follower gives up after ten ticks; the others keep serving."""
    leader, followers = linked_ensemble.leader(), linked_ensemble.followers()
    linked_ensemble.isolate(followers[0])
    wait_until(lambda: followers[0].mode() == "not serving")
    assert (linked_ensemble.leader(), linked_ensemble.followers()) == (leader, followers[1:])
    linked_ensemble.heal()
    linked_ensemble.wait_ready()
    assert linked_ensemble.followers() == followers


@pytest.mark.parametrize("one_way", [False, True])
def test_cut_a_follower_from_the_leader(one_way: bool, linked_ensemble: Ensemble) -> None:
    """It gives up after ten ticks, also if only what the leader sends to it is held."""
    leader, (follower, other) = linked_ensemble.leader(), linked_ensemble.followers()
    assert leader is not None
    linked_ensemble.cut(leader, follower, one_way=one_way)
    wait_until(lambda: follower.mode() == "not serving")
    assert (linked_ensemble.leader(), linked_ensemble.followers()) == (leader, [other])
    linked_ensemble.heal()
    linked_ensemble.wait_ready()
    assert linked_ensemble.followers() == sorted([follower, other], key=lambda server: server.id)


def test_isolate_and_cut_need_links(standalone: Ensemble) -> None:
    with pytest.raises(ValueError, match="linked"):
        standalone.isolate(standalone.servers[0])
    with pytest.raises(ValueError, match="linked"):
        standalone.cut(standalone.servers[0], standalone.servers[0])


async def test_open_ensemble(tmp_path: Path) -> None:
    """Its servers and ports are gone after the block; a given directory is kept."""
    async with open_ensemble(1, directory=tmp_path, config={"tickTime": 100}) as ensemble:
        (server,) = ensemble.servers
        assert ensemble.hosts == server.address
        assert await to_thread(server.mode) == "standalone"
        assert "tickTime=100" in (tmp_path / "server1" / "zoo.cfg").read_text()
    assert not server.alive
    assert (tmp_path / "server1" / "log.txt").exists()


def test_outlives_the_thread_that_started_it() -> None:
    """Like a thread of trio.to_thread, which ends after some idle seconds."""
    ensemble = Ensemble(1)
    starter = threading.Thread(target=ensemble.start)
    starter.start()
    starter.join()
    # `join` returns before the kernel's thread is gone, and it is the end of that thread that would kill the server.
    wait_until(lambda: not Path(f"/proc/self/task/{starter.native_id}").exists())
    assert ensemble.servers[0].mode() == "standalone"
    ensemble.stop()


def test_ends_with_its_process() -> None:
    """Even if the process is killed, no server is left behind."""
    script = (
        "from metafora_trio_zookeeper.testing.real import Ensemble; ensemble = Ensemble(1); ensemble.start(); "
        "print(ensemble.servers[0].process.pid, ensemble.servers[0].folder.parent, flush=True); input()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        pid, folder = process.stdout.readline().split()
        process.kill()
    shutil.rmtree(folder)
    wait_ended([int(pid)])


def test_temporary_data_is_removed() -> None:
    with Ensemble(1) as ensemble:
        folder = ensemble.servers[0].folder
        assert folder.exists()
    assert not folder.parent.exists()
    ensemble.stop()


def test_start_that_fails_says_why() -> None:
    with pytest.raises(EnsembleError, match="nonsense"):
        Ensemble(1, config={"tickTime": "nonsense"}).start()


def test_port_taken_by_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """If another program takes a port between its choice and its use, other ports are tried."""
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", 0))
        thief.listen()
        taken = thief.getsockname()[1]
        choices = [[1, 1, taken], free_ports(3)]
        monkeypatch.setattr("metafora_trio_zookeeper.testing.real._ensemble.free_ports", lambda count: choices.pop(0))
        with Ensemble(1) as ensemble:
            assert ensemble.servers[0].client_port != taken
    assert choices == []


def test_free_ports() -> None:
    assert len(set(free_ports(50))) == 50


@pytest.mark.parametrize(
    "environment, reason",
    [
        ({"PATH": ""}, "`java` is not on the PATH"),
        ({"PATH": os.environ["PATH"], "ZOOKEEPER_HOME": "nowhere"}, "ZOOKEEPER_HOME=nowhere"),
    ],
)
def test_not_installed(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], reason: str) -> None:
    """The error says what is missing and what to install."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ZooKeeperNotInstalled, match=reason) as caught:
        Ensemble(1).start()
    assert "apt-get install zookeeper default-jre-headless" in str(caught.value)


def test_unpacked_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ZOOKEEPER_HOME takes precedence over Debian's jars."""
    lib = tmp_path / "lib"
    lib.mkdir()
    installed = [Path(part) for part in java_command()[2].split(":") if part.endswith(".jar")]
    for jar in installed:
        (lib / jar.name).symlink_to(jar)
    monkeypatch.setenv("ZOOKEEPER_HOME", str(tmp_path))
    with Ensemble(1) as ensemble:
        assert ensemble.servers[0].mode() == "standalone"


def test_open_ensemble_takes_what_an_ensemble_takes() -> None:
    """`EnsembleOptions` has each keyword argument of `Ensemble`, with the same type."""
    parameters = inspect.signature(Ensemble).parameters.values()
    keywords = [it.name for it in parameters if it.kind is inspect.Parameter.KEYWORD_ONLY]
    hints = get_type_hints(Ensemble.__init__)
    assert {name: hints[name] for name in keywords} == get_type_hints(EnsembleOptions)
