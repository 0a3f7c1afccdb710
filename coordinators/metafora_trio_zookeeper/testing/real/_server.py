"""One ZooKeeper server as a plain java process."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from metafora_trio_zookeeper._server_status import ServerStatus, parse_srvr

from ._install import java_command

__all__ = ["HOST", "Server"]

HOST = "127.0.0.1"
_MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
# Small and quick to start: many of them run on a test machine.
_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss256k", "-Xshare:auto", "-XX:-UsePerfData")
_SECONDS_TO_ANSWER = 1.0


@dataclass(eq=False)
class Server:
    """One server of an `Ensemble`; its files stay when it is killed, so that it can come back.

    Attributes:
        id: 1, 2, ...
        client_port, quorum_port, election_port: all on 127.0.0.1.
        folder: holds its configuration, its data and its log (`log.txt`).
        starter: starts its process, in a thread that lasts as long as the server is to live.
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
        """Whether its process exists (it may be paused)."""
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return (self.folder / "log.txt").read_text(errors="replace")

    def configure(self, lines: Sequence[str]) -> None:
        """Write its files."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        (data / "myid").write_text(f"{self.id}\n")
        (self.folder / "zoo.cfg").write_text("\n".join([f"dataDir={data}", *lines, ""]))

    def start(self) -> None:
        """Start its process; returns before it serves."""
        self.starter.submit(self._start).result()

    def _start(self) -> None:
        # The servers end with us even if we are killed: nothing else would ever stop them. More exactly, they
        # end with the thread that starts them (see PR_SET_PDEATHSIG): hence the starter.
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
        """SIGKILL, also if it is paused; returns when it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """SIGSTOP: its connections stay, and it does not answer."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def status(self) -> ServerStatus | None:
        """What it says of itself; None if it is silent for a second or not there. Blocks."""
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
        """Its `status().mode`, or None if it does not answer. Blocks, for a second at most."""
        status = self.status()
        return None if status is None else status.mode

    def _signal(self, number: signal.Signals) -> None:
        if self.process is None or self.process.poll() is not None:
            raise ProcessLookupError(f"server {self.id} does not run")
        self.process.send_signal(number)
