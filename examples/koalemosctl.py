"""koalemosctl: submits a program for koalemosd to run, prints the task's id, and optionally waits for its end.

    koalemosctl.py --url zk://127.0.0.1:2181/koalemos sleep 3
    koalemosctl.py --wait sh -c 'echo goodbye >&2; exit 7'    # with METAFORA_URL set; exits with 7

Options must come before the program: everything after it is passed to the program. The id is a new UUID unless `--id`
sets it. A second submit with the same id is refused, so a script can be run again without harm.

Exit codes: 0 submitted, 2 usage, 4 the id exists or has ended already, 5 ZooKeeper is unreachable, 130 Ctrl-C (the
program keeps running). With `--wait`, the exit code of the program (127: no such program, 128 and more: ended by a
signal), or 1 if the task was deleted or failed in another way. Errors that are not the program's own are printed to
stderr with `error:` in front.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import uuid

import trio

from metafora_trio import (
    Coordinator,
    CoordinatorUnavailable,
    Task,
    TaskExists,
    TaskFinished,
    TaskStatus,
    TaskStatusName,
    open_client,
)


async def submit(coordinator: Coordinator, task: Task, *, wait: bool) -> int:
    """Submit a task and print its id; with `wait`, wait for its end.

    Returns:
        The exit code: 0, or with `wait` the exit code of the program.
    """
    async with open_client(coordinator) as client:
        await client.submit(task)
        print(task.id, flush=True)
        if not wait:
            return 0
        return report((await client.wait([task.id]))[task.id])


def report(status: TaskStatus) -> int:
    """Print to stderr how a task failed, and return the exit code of its program, or 1 if it has none."""
    if status.state == TaskStatusName.COMPLETED:
        return 0
    if not status.errors:
        print(f"error: task {status.id} was {status.state}", file=sys.stderr)
        return 1
    last = status.errors[-1]
    code = re.search(r"\bProgramFailed: exit code (\d+)", last.error)
    if code is None:
        print(f"error: {last.error}", file=sys.stderr)
        return 1
    # After the line of the error itself, the traceback holds the program's last lines of stderr.
    print(last.traceback[last.traceback.rindex(last.error) :].rstrip(), file=sys.stderr)
    return int(code[1])


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="koalemosctl",
        description="Submit a program for koalemosd to run.",
        epilog="Exit codes: 0 submitted, 2 usage, 4 exists, 5 unreachable; with --wait, the program's exit code.",
        allow_abbrev=False,
    )
    url = os.environ.get("METAFORA_URL")
    parser.add_argument("--url", default=url, help="zk://host:port,host:port/namespace (or METAFORA_URL)")
    parser.add_argument("--id", default=str(uuid.uuid4()), help="the task's id (default: a new UUID)")
    parser.add_argument("--wait", action="store_true", help="wait for the program's end, and exit with its code")
    parser.add_argument("program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not options.url:
        parser.error("--url or METAFORA_URL is needed")

    from metafora_trio_zookeeper import from_url  # imported late: everything else can be tested without kazoo

    try:
        task = Task(options.id, {"args": [options.program, *options.arguments]})
        coordinator = from_url(options.url)
    except ValueError as error:  # `InvalidTask` too
        parser.error(str(error))
    try:
        return trio.run(lambda: submit(coordinator, task, wait=options.wait))
    except (TaskExists, TaskFinished) as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    except CoordinatorUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 5
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
