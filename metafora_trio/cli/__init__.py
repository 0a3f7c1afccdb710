"""The command line, `metafora` (extra `cli`).

    _main             the command's frame: global options, and what an error becomes
    _app _each _output _exits
                      shared by the commands: the cluster, several names at once, output, exit codes
    _coordinators     turns a URL into a coordinator, by entry points
    _tasks _nodes     the commands on tasks and nodes
    _run              `run`: a node from the shell
    _doctor           `doctor`
    _demo/            `demo`

It is built on the public names of the core, as any other program could be.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the console script `metafora`. Returns the exit code."""
    try:
        from . import _main
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        print("error: the command line needs click: pip install 'metafora-trio[cli]'", file=sys.stderr)
        return 2
    return _main.main()
