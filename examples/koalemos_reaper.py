"""The reaper of koalemosd: kills the process groups of a daemon that has died or lost its lease.

A killed or frozen daemon does not stop its programs. Without a reaper, they would keep running while another node
starts them again. Parent-death signals do not help, because they are bound to the thread that forked, and Trio's
threads come and go. So each daemon runs a reaper beside it: a small process in a session of its own.

The reaper reads lines from its standard input. This is a pipe whose other end is held only by the daemon, and by each
program's launcher until it becomes the program:

    GROUP DEADLINE   the process group may run until DEADLINE, in seconds of CLOCK_BOOTTIME (or `inf`)
    GROUP gone       the group has ended; its number may be reused soon

At the end of the pipe the reaper kills every group that it has not seen `gone`, and ends. It ends for no other reason.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

TICK = 0.05
"""Seconds between two checks of the clock: a timeout of `select` does not count the time a machine is suspended."""


def kill(group: int) -> None:
    """Send SIGKILL to a whole process group."""
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:  # it has ended already, or it changed its user, and then this process cannot kill it
        return


def main() -> None:
    """Serve one daemon."""
    # A signal sent to all processes of the daemon must not end the reaper, which cleans up after the daemon.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pipe = sys.stdin.fileno()
    deadlines: dict[int, float] = {}
    rest = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], TICK if deadlines else None)
        # Check the deadlines before reading: a renewal that a frozen daemon sends after its deadline is too late.
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
