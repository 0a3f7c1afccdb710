"""Server: one ZooKeeper server as a plain java process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from metafora_trio_zookeeper._server_status import ServerStatus, parse_srvr

from ._install import java_command

__all__ = ["HOST", "Server"]

HOST = "127.0.0.1"
_MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
# Small and quick to start, because many servers run on one test machine.
_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss256k", "-Xshare:auto", "-XX:-UsePerfData")
_SECONDS_TO_ANSWER = 1.0
_SECONDS_TO_STOP = 10.0


@dataclass(eq=False)
class Server:
    """One server of an `Ensemble`. Its files are kept when it is killed, so that it can be started again.

    Attributes:
        id: 1, 2, ...
        client_port, quorum_port, election_port: all on 127.0.0.1.
        folder: holds its configuration, its data and its log (`log.txt`).
        starter: starts the process. Its thread must outlive the server, because the server is killed when it ends.
    """

    id: int
    client_port: int
    quorum_port: int
    election_port: int
    folder: Path
    starter: Executor
    jvm_options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """`host:port` for clients."""
        return f"{HOST}:{self.client_port}"

    @property
    def alive(self) -> bool:
        """True while its process exists, even if it is paused."""
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        """Everything it has printed so far."""
        return (self.folder / "log.txt").read_text(errors="replace")

    def configure(self, lines: Sequence[str]) -> None:
        """Write its configuration files."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        (data / "myid").write_text(f"{self.id}\n")
        (self.folder / "zoo.cfg").write_text("\n".join([f"dataDir={data}", *lines, ""]))

    def start(self) -> None:
        """Start its process; return before it serves."""
        self.starter.submit(self._start).result()

    def _start(self) -> None:
        # The servers must end even if we are killed, because nothing else would stop them. PR_SET_PDEATHSIG ends them
        # with the thread that starts them, which is why there is a starter.
        tether = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        command = [*tether, *java_command(), *_JVM, *self.jvm_options, _MAIN, str(self.folder / "zoo.cfg")]
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=dict(self.environment),
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill it with SIGKILL, even if it is paused, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """Pause it with SIGSTOP: its connections stay open, but it does not answer. Blocks until it has stopped.

        The signal stops each of its threads at a moment of its own, so a busy machine may answer a little longer.
        """
        process = self._signal(signal.SIGSTOP)
        end = time.monotonic() + _SECONDS_TO_STOP
        with contextlib.suppress(ChildProcessError):  # it has been killed meanwhile
            while os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG) is None and process.poll() is None:
                if time.monotonic() > end:
                    raise TimeoutError(f"server {self.id} has not stopped {_SECONDS_TO_STOP:g} s after SIGSTOP")
                time.sleep(0.001)  # poll, because `waitid` cannot be given a time to wait

    def resume(self) -> None:
        """Resume it with SIGCONT."""
        self._signal(signal.SIGCONT)

    def status(self) -> ServerStatus | None:
        """Return its own status, or None if it does not answer within a second. Blocks."""
        answer = b""
        try:
            with socket.create_connection((HOST, self.client_port), _SECONDS_TO_ANSWER) as asking:
                asking.sendall(b"srvr")
                while part := asking.recv(4096):
                    answer += part
        except OSError:
            return None
        return parse_srvr(answer.decode(errors="replace"))

    def mode(self) -> str | None:
        """Return its `status().mode`, or None if it does not answer. Blocks for a second at most."""
        status = self.status()
        return None if status is None else status.mode

    def _signal(self, number: signal.Signals) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            raise ProcessLookupError(f"server {self.id} is not running")
        self.process.send_signal(number)
        return self.process
