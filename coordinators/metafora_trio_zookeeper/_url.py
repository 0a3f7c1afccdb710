"""from_url: a coordinator from a `zk://` URL."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote

from ._coordinator import ZooKeeperCoordinator

__all__ = ["from_url"]

_NUMBERS = {"session_timeout": float, "connect_timeout": float, "buckets": int}
# From RFC 3986, appendix B. `urlsplit` refuses a list of hosts that contains an IPv6 address.
_PARTS = re.compile(
    r"(?:(?P<scheme>[^:/?#]+):)?(?://(?P<hosts>[^/?#]*))?(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?"
)
_FORM = "zk://host:port,host:port/namespace?session_timeout=10"


def from_url(url: str, **options: Any) -> ZooKeeperCoordinator:
    """Return a coordinator for `zk://host:port,host:port/namespace?session_timeout=4&connect_timeout=10&buckets=64`.

    The default namespace is `/metafora`. Credentials do not belong in a URL: pass `auth`.

    Args:
        url: as above.
        **options: arguments of `ZooKeeperCoordinator`; the URL takes precedence.

    Raises:
        ValueError: the URL breaks a rule; the message names it.
    """
    parts = _PARTS.fullmatch(url)
    if parts is None or parts["scheme"] != "zk":
        raise ValueError(f"{url!r} is not a ZooKeeper URL ({_FORM})")
    if not parts["hosts"]:
        raise ValueError(f"{url!r} names no host ({_FORM})")
    if "@" in parts["hosts"]:
        raise ValueError("credentials do not belong in a URL, since URLs are logged and shown: pass auth=")
    if parts["fragment"]:
        raise ValueError(f"{url!r} has a fragment, {parts['fragment']!r}, which has no meaning here ({_FORM})")
    for name, value in parse_qsl(parts["query"] or "", keep_blank_values=True):
        if name not in _NUMBERS:
            raise ValueError(f"{url!r}: unknown option {name!r} (known: {', '.join(_NUMBERS)})")
        try:
            options[name] = _NUMBERS[name](value)
        except ValueError:
            raise ValueError(f"{url!r}: {name} is {value!r}, not a number") from None
    if parts["path"] not in ("", "/"):
        options["namespace"] = unquote(parts["path"])
    return ZooKeeperCoordinator(parts["hosts"], **options)
