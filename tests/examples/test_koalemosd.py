"""koalemosd and koalemosctl on the embedded coordinator: how programs end, and how they are stopped.

The programs are real, and so is the time. With ZooKeeper, and with killed and frozen daemons: tests/zookeeper.
"""

from __future__ import annotations

import logging
import math
import re
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from examples import koalemosctl, koalemosd
from metafora_trio import Client, Consumer, MemoryCoordinator, Task, TaskStatus, open_client
from tests.support.process_groups import SOON, group_runs, until


def program(script: str, id: str = "task") -> Task:
    return Task(id, {"args": ["sh", "-c", script]})


@asynccontextmanager
async def open_daemon(coordinator: MemoryCoordinator, *, grace: float = 5.0) -> AsyncGenerator[Consumer]:
    """Run what `koalemosd.serve` runs, without signals and without settling. Stop it at once at the end."""
    async with koalemosd.open_reaper() as reaper, trio.open_nursery() as nursery:
        programs = koalemosd.Programs(reaper, grace)
        consumer = Consumer(coordinator, programs, name="ant", cleanup_timeout=math.inf, settle=0)
        await nursery.start(lambda task_status: consumer.run(task_status=task_status))
        yield consumer
        nursery.cancel_scope.cancel()


async def run(task: Task) -> TaskStatus:
    """Run a task on a daemon of its own, and return its final status."""
    coordinator = MemoryCoordinator()
    async with open_daemon(coordinator), open_client(coordinator) as client:
        await client.submit(task)
        return (await client.wait([task.id], timeout=SOON))[task.id]


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> str:
    """Wait for a message that contains `text`, and return the first one."""
    with trio.fail_after(SOON):
        while True:
            for message in caplog.messages:
                if text in message:
                    return message
            await trio.sleep(0.01)


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def test_output_and_environment(caplog: pytest.LogCaptureFixture) -> None:
    """Both outputs are logged line by line, even an unfinished last line. The program gets its fencing token."""
    script = 'echo one; echo "two $KOALEMOS_TASK $KOALEMOS_TOKEN"; echo three >&2; read line || printf "no input"'
    status = await run(program(script))
    assert status.state == "completed"
    lines = [re.sub(r"\d+$", "N", line) for line in caplog.messages if line.startswith("task | ")]
    assert sorted(lines) == ["task | no input", "task | one", "task | three", "task | two task N"]


async def test_failed_program_keeps_code_and_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """The end of stderr can be read in the task's record; koalemosctl repeats it and exits with the program's code."""
    status = await run(program("for i in $(seq 100); do echo line $i >&2; done; exit 7"))
    assert status.state == "failed"
    assert status.errors[-1].error.endswith("ProgramFailed: exit code 7")
    assert [f"line {number}" for number in range(81, 101)] == status.errors[-1].traceback.split("\n")[-21:-1]
    assert koalemosctl.report(status) == 7
    assert capsys.readouterr().err.splitlines()[-1] == "line 100"


@pytest.mark.parametrize(
    "args, code, why",
    [
        (["no-such-program", "1"], 127, "not found"),
        (["/etc/passwd"], 126, "denied"),
        (["sh", "-c", "kill -9 $$"], 137, "Killed"),
    ],
)
async def test_programs_that_do_not_start_or_are_killed(args: list[str], code: int, why: str) -> None:
    """Their tasks fail with the exit codes of a shell, and the error gives the cause."""
    status = await run(Task("task", {"args": args}))
    assert status.state == "failed"
    assert koalemosctl.report(status) == code
    assert why in status.errors[-1].traceback


@pytest.mark.parametrize("args", [None, [], "sleep 3", ["sleep", 3], [""]])
async def test_invalid_arguments(args: object) -> None:
    """They fail the task, not the daemon, and the error states the rule."""
    status = await run(Task("task", {"args": args}))
    assert status.state == "failed"
    assert "task 'task': \"args\" must be a list of strings, program first, not" in status.errors[-1].error
    assert koalemosctl.report(status) == 1


async def test_background_processes_of_a_program_are_killed(caplog: pytest.LogCaptureFixture) -> None:
    """A task ends only with its whole group. Otherwise a background process would overlap the task's next run."""
    status = await run(program("sleep 1000 & echo group $$"))
    assert status.state == "completed"
    assert not group_runs(int((await logged(caplog, "| group ")).split()[-1]))


async def stop_by_delete(consumer: Consumer, client: Client) -> None:
    await client.delete("task")
    await client.wait(["task"], timeout=SOON)


async def stop_by_command(consumer: Consumer, client: Client) -> None:
    await client.stop_task("task")
    await stopped(client)


async def stop_by_drain(consumer: Consumer, client: Client) -> None:
    await consumer.drain()
    await stopped(client)


async def stopped(client: Client) -> None:
    async def unclaimed() -> bool:
        return (await client.get("task")).state == "unclaimed"

    await until(unclaimed)


Stop = Callable[[Consumer, Client], Awaitable[None]]


@pytest.mark.parametrize("stop", [stop_by_delete, stop_by_command, stop_by_drain])
async def test_stop_is_polite_first(caplog: pytest.LogCaptureFixture, stop: Stop) -> None:
    """The whole group gets SIGTERM, its last output is logged, and the task has not failed: it can run again."""
    coordinator = MemoryCoordinator()
    script = "trap 'echo goodbye; kill $!; exit 3' TERM; sleep 1000 & echo group $$; wait"
    async with open_daemon(coordinator) as consumer, open_client(coordinator) as client:
        await client.submit(program(script))
        group = int((await logged(caplog, "| group ")).split()[-1])
        await stop(consumer, client)
        assert not group_runs(group)
    assert "task | goodbye" in caplog.messages


async def test_a_program_that_ignores_sigterm_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    """After the grace the whole group gets SIGKILL, and only then is the claim given up."""
    coordinator = MemoryCoordinator()
    async with open_daemon(coordinator, grace=0.3) as consumer, open_client(coordinator) as client:
        await client.submit(program("trap '' TERM; sleep 1000 & echo group $$; wait; wait"))
        group = int((await logged(caplog, "| group ")).split()[-1])
        before = trio.current_time()
        await stop_by_command(consumer, client)
        assert 0.3 <= trio.current_time() - before < 3
        assert not group_runs(group)


async def test_end_of_lease_comes_before_the_grace(caplog: pytest.LogCaptureFixture) -> None:
    """A node that has lost its broker kills a program that ignores SIGTERM before another node may start it. It does
    so itself: the reaper is only for a daemon that cannot."""
    coordinator = MemoryCoordinator(session_timeout=3)
    async with open_daemon(coordinator, grace=60) as consumer, open_client(coordinator) as client:
        await client.submit(program("trap '' TERM; sleep 1000 & echo group $$; wait; wait"))
        group = int((await logged(caplog, "| group ")).split()[-1])
        node, programs = consumer.statistics().node, consumer.handler
        assert node is not None
        assert isinstance(programs, koalemosd.Programs)
        programs.reaper.process.send_signal(signal.SIGSTOP)
        coordinator.partition(node)
        try:
            await until(lambda: not group_runs(group), timeout=3)  # the session timeout: no other node may start it yet
        finally:
            programs.reaper.process.send_signal(signal.SIGCONT)


async def test_daemon_ends_with_its_reaper(caplog: pytest.LogCaptureFixture) -> None:
    """The daemon does not run without a reaper. Otherwise a program could outlive the daemon."""
    coordinator = MemoryCoordinator()
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="reaper has ended, with code -9")):
        async with koalemosd.open_reaper() as reaper, trio.open_nursery() as nursery:
            consumer = Consumer(coordinator, koalemosd.Programs(reaper, 5), cleanup_timeout=math.inf, settle=0)
            nursery.start_soon(consumer.run)
            async with open_client(coordinator) as client:
                await client.submit(program("echo group $$; sleep 1000"))
                await logged(caplog, "| group ")
                reaper.process.kill()
                with trio.fail_after(SOON):
                    await trio.sleep_forever()
    assert not group_runs(int((await logged(caplog, "| group ")).split()[-1]))


async def test_koalemosctl_prints_the_id_and_waits(capsys: pytest.CaptureFixture[str]) -> None:
    """`submit` prints the id at once; with `wait` it returns the program's exit code."""
    coordinator = MemoryCoordinator()
    async with open_daemon(coordinator):
        assert await koalemosctl.submit(coordinator, program("exit 5", "one"), wait=True) == 5
        assert await koalemosctl.submit(coordinator, program("exit 0", "two"), wait=True) == 0
        assert await koalemosctl.submit(coordinator, program("exit 9", "three"), wait=False) == 0
    assert capsys.readouterr().out.split() == ["one", "two", "three"]


async def test_koalemosctl_waits_for_a_deleted_task(capsys: pytest.CaptureFixture[str]) -> None:
    """A deleted task has no exit code: koalemosctl prints an error and exits with 1."""
    coordinator = MemoryCoordinator()
    codes = []

    async def wait() -> None:
        codes.append(await koalemosctl.submit(coordinator, program("sleep 1000"), wait=True))

    async def submitted() -> bool:
        return bool(await client.tasks())

    async with open_daemon(coordinator), open_client(coordinator) as client, trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await until(submitted)
        await client.delete("task")
    assert codes == [1]
    assert capsys.readouterr().err == "error: task task was deleted\n"
