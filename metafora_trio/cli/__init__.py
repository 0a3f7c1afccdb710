"""The command line, `metafora` (extra `cli`).

    _main             the command's frame: global options, and what an error becomes
    _app _each _output _exits
                      what the commands share: the cluster, several names at once, what is printed, exit codes
    _coordinators     from a URL to a coordinator, by entry points
    _tasks _nodes     the commands on tasks and nodes
    _run              `run`: a node from the shell
    _doctor           `doctor`
    _demo/            `demo`

Built on the public face of the core, but for its nursery (`_service`), a node's name (`_view`), and what a coordinator
may offer besides its contract (`_upkeep`).
"""

from __future__ import annotations

import sys


def main() -> int:
    """The console script `metafora`. Returns the exit code."""
    try:
        from . import _main
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        print("error: the command line needs click: pip install 'metafora-trio[cli]'", file=sys.stderr)
        return 2
    return _main.main()
