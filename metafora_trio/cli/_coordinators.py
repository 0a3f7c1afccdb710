"""Turn a URL into a coordinator. Backends are found by entry points; none is imported by name."""

from __future__ import annotations

import re
from importlib.metadata import entry_points

from metafora_trio import Coordinator

from ._exits import ExitCode, Failure

__all__ = ["coordinator_from_url", "missing_extra"]

_GROUP = "metafora_trio.coordinators"
_REQUIREMENT = re.compile(r"""([A-Za-z0-9._-]+).*\bextra\s*==\s*["']([^"']+)["']""")
_SPOKEN = {"zk": "ZooKeeper"}
"""The names that people use for schemes, where they differ."""


def coordinator_from_url(url: str) -> Coordinator:
    """Make the coordinator that belongs to a URL's scheme.

    Raises:
        Failure: the scheme is unknown, a package that it needs is not installed, or it refuses the URL.
    """
    scheme, separator, _ = url.partition("://")
    known = {entry.name: entry for entry in entry_points(group=_GROUP)}
    if not separator or scheme not in known:
        forms = ", ".join(f"{name}://" for name in sorted(known))
        hint = f"known are {forms}; for example zk://host:2181,host:2181/namespace"
        raise Failure(f"no coordinator for the URL {url!r}", ExitCode.USAGE, hint)
    try:
        from_url = known[scheme].load()
    except ModuleNotFoundError as error:
        raise missing_extra(url, error) or error from error
    try:
        coordinator = from_url(url)
    except ValueError as error:
        raise Failure(f"--url: {error}", ExitCode.USAGE) from error
    assert isinstance(coordinator, Coordinator)
    return coordinator


def missing_extra(url: str | None, error: ModuleNotFoundError) -> Failure | None:
    """Name the extra of the coordinator's distribution that installs a module, or return None if no extra does."""
    scheme, _, _ = (url or "").partition("://")
    module = (error.name or "").partition(".")[0]
    for entry in entry_points(group=_GROUP, name=scheme):
        if entry.dist is None:
            continue
        matches = filter(None, map(_REQUIREMENT.match, entry.dist.requires or ()))
        extras = [match[2] for match in matches if match[1].lower() == module.lower()]
        if extras:
            extra = min(extras, key=lambda extra: extra == "all")  # the smallest that does it
            install = f"pip install '{entry.dist.name}[{extra}]'"
            return Failure(f"the {_SPOKEN.get(scheme, scheme)} coordinator needs {module}: {install}", ExitCode.USAGE)
    return None
