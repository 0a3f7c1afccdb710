"""metafora run: it runs a node from the shell, until a signal or an error ends it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import trio

from metafora_trio import RunningTask, Task, open_client
from tests.support.shell import Shell

_HANDLERS = "tests.cli.test_run"


async def ending(task: RunningTask) -> None:
    """Drain its own node by a signal."""
    await trio.sleep(1)
    signal.raise_signal(task.props["signal"])
    await trio.sleep_forever()


async def insisting(task: RunningTask) -> None:
    """Send a first signal, keep running in the grace, then send a second signal."""
    signal.raise_signal(signal.SIGTERM)
    await task.stopping.wait()
    signal.raise_signal(task.props["signal"])
    told = trio.current_time()
    try:
        await trio.sleep_forever()
    finally:
        print("cancelled after", round(trio.current_time() - told), "s")


not_callable = 7


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore `sys.path`, because the command adds the current folder to it."""
    monkeypatch.setattr("sys.path", [*sys.path])


def submit(shell: Shell, **props: object) -> None:
    async def main() -> None:
        async with open_client(shell.cluster.memory) as client:
            await client.submit(Task("a", props))

    trio.run(main)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(shell: Shell, number: int) -> None:
    """SIGTERM and Ctrl-C drain the node: the exit code is 0, and stderr shows each step."""
    submit(shell, signal=int(number))
    assert shell("run", f"{_HANDLERS}:ending", "--name", "ant") == 0
    assert shell.out == ""
    story = [line.partition(" ")[2] for line in shell.err.splitlines() if line[:1].isdigit()]
    assert [line.replace(story[0].split()[-1], "ant.N") for line in story] == [
        "joined as ant.N",
        "task a started (token 2)",
        "task a is stopping: drained",
        "task a stopped (drained)",
        "ant.N has left",
    ]
    assert "draining 1 task; once more to stop at once\n" in shell.err


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_stops_at_once(shell: Shell, number: int, code: int) -> None:
    """A second signal does not wait for the grace of a task."""
    submit(shell, signal=int(number))
    assert shell("run", f"{_HANDLERS}:insisting", "--grace", "1000") == code
    assert "stopping at once\n" in shell.err
    assert shell.out == "cancelled after 0 s\n"


def test_quiet(shell: Shell) -> None:
    """With -q only errors and warnings are printed."""
    submit(shell, signal=int(signal.SIGTERM))
    assert shell("run", f"{_HANDLERS}:ending", "-q") == 0
    assert shell.err == "draining 1 task; once more to stop at once\n"


def test_unreachable(shell: Shell) -> None:
    """If the first join fails, one line reports it, and the exit code is 5."""
    shell.cluster.memory.outage = True
    assert shell("run", f"{_HANDLERS}:ending") == 5
    assert shell.err.startswith("error: no answer within 10 s\n")


@pytest.mark.parametrize(
    "handler, error",
    [
        ("nope", "'nope' is not MODULE:HANDLER"),
        ("no_such_module:handler", "cannot import 'no_such_module:handler': No module named 'no_such_module'"),
        (f"{_HANDLERS}:nope", f"cannot import '{_HANDLERS}:nope': module"),
        (f"{_HANDLERS}:not_callable", f"'{_HANDLERS}:not_callable' is int, not an async function"),
    ],
)
def test_invalid_handlers(shell: Shell, handler: str, error: str) -> None:
    """A handler that cannot be imported or called is wrong usage."""
    assert shell("run", handler) == 2
    assert shell.err.startswith(f"error: {error}")


def test_current_folder_is_importable(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Handlers can be imported from the current folder, as with `python -m`."""
    (tmp_path / "only_here.py").write_text("from tests.cli.test_run import ending as handler\n")
    monkeypatch.chdir(tmp_path)
    submit(shell, signal=int(signal.SIGTERM))
    assert shell("run", "only_here:handler") == 0
