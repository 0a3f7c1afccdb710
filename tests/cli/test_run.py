"""run: a node from the shell, and how it ends."""

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
    """Ends its node politely."""
    await trio.sleep(1)
    signal.raise_signal(task.props["signal"])
    await trio.sleep_forever()


async def insisting(task: RunningTask) -> None:
    """Is told to stop, takes its time (with `--grace`), and has the operator lose patience."""
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
    """The command puts the current folder there."""
    monkeypatch.setattr("sys.path", [*sys.path])


def submit(shell: Shell, **props: object) -> None:
    async def main() -> None:
        async with open_client(shell.cluster.memory) as client:
            await client.submit(Task("a", props))

    trio.run(main)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(shell: Shell, number: int) -> None:
    """SIGTERM and Ctrl-C let the node leave politely: exit code 0, and the story on stderr."""
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
    """Whoever signals twice does not want to wait for the grace of a task."""
    submit(shell, signal=int(number))
    assert shell("run", f"{_HANDLERS}:insisting", "--grace", "1000") == code
    assert "stopping at once\n" in shell.err
    assert shell.out == "cancelled after 0 s\n"


def test_quiet(shell: Shell) -> None:
    """With -q only what goes wrong is told."""
    submit(shell, signal=int(signal.SIGTERM))
    assert shell("run", f"{_HANDLERS}:ending", "-q") == 0
    assert shell.err == "draining 1 task; once more to stop at once\n"


def test_unreachable(shell: Shell) -> None:
    """A first join that fails is told in one line: 5."""
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
def test_handlers_that_are_none(shell: Shell, handler: str, error: str) -> None:
    """What cannot be imported or called is a matter of usage."""
    assert shell("run", handler) == 2
    assert shell.err.startswith(f"error: {error}")


def test_current_folder_is_importable(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As with `python -m`."""
    (tmp_path / "only_here.py").write_text("from tests.cli.test_run import ending as handler\n")
    monkeypatch.chdir(tmp_path)
    submit(shell, signal=int(signal.SIGTERM))
    assert shell("run", "only_here:handler") == 0
