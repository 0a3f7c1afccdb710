"""Two nodes and six tasks in one process: `python examples/hello.py` shows who runs what, and ends by itself."""

from __future__ import annotations

import trio

from metafora_trio import MemoryCoordinator, RunningTask, Task, open_client, open_consumer


async def greet(task: RunningTask) -> None:
    print(f"{task.node} runs {task.id}: hello, {task.props['name']}")
    await trio.sleep(1)


async def main() -> None:
    coordinator = MemoryCoordinator()
    async with (
        open_consumer(coordinator, greet, name="ant"),
        open_consumer(coordinator, greet, name="bee"),
        open_client(coordinator) as client,
    ):
        await client.submit(Task(f"task-{number}", {"name": name}) for number, name in enumerate("abcdef"))
        await client.wait()


if __name__ == "__main__":
    trio.run(main)
