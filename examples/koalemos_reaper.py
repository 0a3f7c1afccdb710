"""The reaper of koalemosd: kills the process groups of a daemon that has died or lost its lease.

A daemon that is killed cannot stop its programs, and a frozen one does not: without this they would run on while
another node starts them again. Parent-death signals are no way out: they follow the thread that forked, and
Trio's threads come and go. So each daemon has one of these beside it, small, and in a session of its own.

It reads lines from its standard input, a pipe whose other end only the daemon holds (and each program's launcher,
until it becomes the program):

    GROUP DEADLINE   the process group may run until DEADLINE, in seconds of CLOCK_BOOTTIME (or `inf`)
    GROUP gone       the group has ended; its number may soon mean another

At the end of the pipe it kills every group it knows of, and ends. It ends for no other reason.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

TICK = 0.05
"""Seconds between two looks at the clock: `select` does not count the time for which a machine is suspended."""


def kill(group: int) -> None:
    """SIGKILL to a whole process group."""
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:  # it has ended already, or it changed its user, and then nothing else is possible either
        return


def main() -> None:
    """Serve one daemon."""
    # Who stops a daemon by a signal to all its processes must not end the one that cleans up after it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pipe = sys.stdin.fileno()
    deadlines: dict[int, float] = {}
    rest = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], TICK if deadlines else None)
        # Before the reading: a renewal that comes after the deadline, from a daemon that was frozen, is too late.
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        for group in [group for group, deadline in deadlines.items() if deadline <= now]:
            kill(group)
            del deadlines[group]
        if not ready:
            continue
        data = os.read(pipe, 65536)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            group_id, word = line.split()
            if word == b"gone":
                deadlines.pop(int(group_id), None)
            else:
                deadlines[int(group_id)] = float(word)
    for group in deadlines:
        kill(group)
    if deadlines:
        print(f"koalemosd has ended: killed {len(deadlines)} of its process groups", file=sys.stderr)


if __name__ == "__main__":
    main()
