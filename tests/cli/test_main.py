"""The frame of the command line: help, global options, and the exit code of each error."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import trio

from metafora_trio import (
    BrokerTooOld,
    Consumer,
    CoordinatorUnavailable,
    LayoutMismatch,
    NamespaceNotFound,
    RunningTask,
)
from metafora_trio.cli._main import _COMMANDS
from tests.support.shell import Shell

_NOTHING = "error: no cluster named: give --url or set METAFORA_URL\n"


def test_help_lists_every_command(shell: Shell) -> None:
    """`metafora --help` lists all commands, each with the first line of its own help."""
    assert shell("--help") == 0
    assert [name for name in _COMMANDS if f"  {name} " not in shell.out] == []
    assert shell() == 2
    assert "Commands:" in shell.err


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_help_has_examples(shell: Shell, command: str) -> None:
    """The help of every command shows examples."""
    assert shell(command, "--help") == 0
    assert "Examples:\n" in shell.out
    assert f"    metafora {command}" in shell.out
    assert "--url URL" in shell.out


def test_help_imports_no_command() -> None:
    """`metafora --help` does not import the modules of the commands, which would slow it down."""
    program = "import sys; from metafora_trio.cli import _main; _main.main(['--help']); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = {name for name in run.stdout.split() if name.startswith("metafora_trio.cli.")}
    assert loaded == {f"metafora_trio.cli.{name}" for name in ("_main", "_app", "_exits")}


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["ls"], _NOTHING),
        (["run", "tests.support.shell:handler"], _NOTHING),
        (["doctor"], _NOTHING),
        (["ls", "--url", "nope://x"], "error: no coordinator for the URL 'nope://x'\nhint: known are memory://, zk://"),
        (["ls", "--url", "127.0.0.1"], "error: no coordinator for the URL '127.0.0.1'\n"),
        (["ls", "--url", "zk://h:1/x?nope=1"], "error: --url: "),
        (["nope"], "error: No such command 'nope'.\nhint: see `metafora --help`\n"),
        (["ls", "--bogus"], "error: No such option '--bogus'.\nhint: see `metafora ls --help`\n"),
        (["wait", "--timeout", "soon"], "error: Invalid value for '--timeout': "),
        (
            ["ls", "--state", "runing"],
            "error: Invalid value for '--state': 'runing' is not one of 'unclaimed', 'running',",
        ),
    ],
)
def test_usage(shell: Shell, arguments: list[str], error: str) -> None:
    """A wrong command line is reported on stderr with a hint, and the exit code is 2."""
    assert shell(*arguments, given=False) == 2
    assert shell.out == ""
    assert shell.err.startswith(error)


def test_url_from_the_environment(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """METAFORA_URL names the cluster; --url overrides it."""
    monkeypatch.setenv("METAFORA_URL", "memory://")
    assert shell("ls", given=False) == 0
    assert shell("ls", "--url", "nope://", given=False) == 2
    assert shell("--url", "nope://", "ls", given=False) == 2


def test_unreachable(shell: Shell) -> None:
    """If the broker does not answer, the exit code is 5. With -v the traceback is shown too."""
    shell.cluster.memory.outage = True
    assert shell("ls") == 5
    assert shell.err.startswith("error: no answer within 10 s\nhint: is --url right")
    assert shell("-v", "ls") == 5
    assert "Traceback (most recent call last):" in shell.err


@pytest.mark.parametrize(
    "error, code",
    [(NamespaceNotFound, 3), (LayoutMismatch, 4), (BrokerTooOld, 4), (CoordinatorUnavailable, 5)],
)
def test_permanent_errors_have_their_own_exit_code(shell: Shell, error: type[Exception], code: int) -> None:
    """A script that retries on 5 must not retry forever on a cluster that this version cannot use."""

    def refuse() -> None:
        raise error("no")

    shell.cluster.answers, shell.cluster.silence = 0, refuse
    assert shell("describe", "a") == code


@pytest.mark.parametrize("command", [["ls"], ["demo"], ["run", "tests.support.shell:handler"]])
def test_missing_extra_of_a_coordinator(command: list[str]) -> None:
    """Without kazoo, one line says what to install."""
    program = "import sys; sys.modules['kazoo'] = None; from metafora_trio.cli import main; sys.exit(main())"
    run = subprocess.run(
        [sys.executable, "-c", program, *command, "--url", "zk://127.0.0.1:1/x"], capture_output=True, text=True
    )
    wanted = "error: the ZooKeeper coordinator needs kazoo: pip install 'metafora-trio[zookeeper]'\n"
    assert (run.returncode, run.stdout, run.stderr) == (2, "", wanted)


def test_missing_extra_of_the_command_line() -> None:
    """Without click, one line says what to install."""
    program = "import sys; sys.modules['click'] = None; from metafora_trio.cli import main; sys.exit(main())"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    wanted = "error: the command line needs click: pip install 'metafora-trio[cli]'\n"
    assert (run.returncode, run.stdout, run.stderr) == (2, "", wanted)


def test_interrupt(shell: Shell) -> None:
    """Ctrl-C ends a command without a traceback, with exit code 130."""

    async def interrupt(task: RunningTask) -> None:
        await trio.sleep(60)
        signal.raise_signal(signal.SIGINT)

    memory = shell.cluster.memory
    shell.cluster.consumers = [lambda: Consumer(memory, interrupt, name="ant")]
    assert shell("submit", "a") == 0
    assert shell("wait") == 130
    assert "Traceback" not in shell.err


def test_a_bug_keeps_its_traceback(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception is shown with its traceback, not as an error message."""
    monkeypatch.setattr(shell.cluster, "open_client", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shell("ls")
