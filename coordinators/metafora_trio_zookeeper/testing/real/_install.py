"""java_command: finds ZooKeeper and Java on this machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["ZooKeeperNotInstalled", "java_command"]

_DEBIAN_JARS = Path("/usr/share/java")
# Jars missing from the manifest of Debian's jar: a logging backend, without which a server that fails to start gives no
# reason, and those that Netty needs for TLS.
_DEBIAN_MISSING = ("slf4j-simple.jar", "netty-codec.jar", "netty-resolver.jar")
_HELP = (
    "The tests need a real ZooKeeper (3.6 or newer) and Java: {missing}. "
    "On Debian or Ubuntu: `apt-get install zookeeper default-jre-headless` (nothing is started by it). "
    "Elsewhere: unpack a release from https://zookeeper.apache.org/releases.html, set ZOOKEEPER_HOME to its "
    "folder, and have `java` on the PATH or JAVA_HOME set."
)


class ZooKeeperNotInstalled(RuntimeError):
    """ZooKeeper's jars or Java were not found; the message says what to install."""


def java_command() -> list[str]:
    """Return the first part of the command that runs a ZooKeeper server.

    Returns:
        `java -cp ...`, to be followed by JVM options, the main class and the name of the configuration file.

    Raises:
        ZooKeeperNotInstalled: ZooKeeper's jars or Java were not found.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java") or (shutil.which("java", path=f"{home}/bin") if home else None)
    if java is None:
        raise ZooKeeperNotInstalled(_HELP.format(missing="`java` is not on the PATH, and not in JAVA_HOME"))
    return [java, "-cp", ":".join(_class_path())]


def _class_path() -> list[str]:
    if home := os.environ.get("ZOOKEEPER_HOME"):
        jars = sorted(str(jar) for jar in Path(home, "lib").glob("*.jar"))
        if not any("zookeeper" in Path(jar).name for jar in jars):
            raise ZooKeeperNotInstalled(_HELP.format(missing=f"no lib/zookeeper*.jar in ZOOKEEPER_HOME={home}"))
        return [str(Path(home, "conf")), *jars]
    jar = _DEBIAN_JARS / "zookeeper.jar"  # its manifest names most of the others
    if not jar.exists():
        raise ZooKeeperNotInstalled(_HELP.format(missing=f"there is no {jar}, and ZOOKEEPER_HOME is not set"))
    return [str(jar), *(str(_DEBIAN_JARS / name) for name in _DEBIAN_MISSING)]
