"""The README's first program: one node, one task, for five seconds."""

from __future__ import annotations

import trio

import metafora_trio as metafora


async def handler(task: metafora.RunningTask) -> None:
    while True:  # runs until the task is deleted; moves when nodes come and go
        print(task.node, "polls", task.props["url"], "with token", task.token)
        await trio.sleep(1)


async def main() -> None:
    coordinator = metafora.MemoryCoordinator()  # or ZooKeeperCoordinator("host:2181"), the same everywhere else
    async with metafora.open_consumer(coordinator, handler), metafora.open_client(coordinator) as client:
        await client.submit(metafora.Task("feed-1", {"url": "https://example.com/feed"}))
        await trio.sleep(5)


if __name__ == "__main__":
    trio.run(main)
