"""Every check of the project, each in its own virtual environment: `nox -l` lists them.

What follows `--` is handed on: `nox -s tests -- tests/model/test_view.py -k unclaimed`. The bare `nox` runs what
`.ci/run` runs.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.error_on_external_run = True
nox.options.reuse_venv = "yes"

ROOT = Path(__file__).parent
GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")
SOURCES = ("metafora_trio", "coordinators/metafora_trio_zookeeper")
BENCHMARKS = ("claims", "cluster", "failover", "handover", "join", "idle")
ZOOKEEPER_JAR = Path("/usr/share/java/zookeeper.jar")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, those against real ZooKeeper servers too, and the coverage of the core. Posargs go to pytest."""
    need_zookeeper(session)
    session.install("-e", ".[all]", *group("test"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    # A selection of tests cannot cover everything: then the figure is for information.
    session.run("coverage", "report", *(["--fail-under=0"] if session.posargs else []))


@nox.session
def core_only(session: nox.Session) -> None:
    """The core's tests where kazoo is not installed: the core needs no backend. Posargs go to pytest."""
    session.install("-e", ".[cli]", *group("test"))
    session.run("python", "-c", "import importlib.util; assert importlib.util.find_spec('kazoo') is None")
    session.run("pytest", "--ignore=tests/zookeeper", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Builds the wheel and tests it, installed, from a folder without the sources. Posargs go to pytest."""
    need_zookeeper(session)
    folder = Path(session.create_tmp())
    shutil.rmtree(folder)
    folder.mkdir()
    session.install("build", *group("test"))
    session.run("python", "-m", "build", "--outdir", str(folder / "dist"), str(ROOT), silent=True)
    (built,) = (folder / "dist").glob("*.whl")
    session.install("--force-reinstall", f"{built}[all]")  # its version may be that of the last run
    for name in ("tests", "examples", "stress", "docs"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("pyproject.toml", "noxfile.py", "README.md"):
        shutil.copy(ROOT / name, folder)
    session.chdir(folder)
    session.run("pytest", "--ignore=tests/test_docs.py", *session.posargs)  # the pages are in the checkout only


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and format, and flake8-async. Posargs go to `ruff check` alone: `nox -s lint -- --fix`."""
    session.install(*group("lint"))
    if session.posargs:
        session.run("ruff", "check", *session.posargs)
        return
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    # Without what ruff has or pyproject.toml gives a reason against, and ASYNC9, a checkpoint on every path: it cannot
    # see through our own coroutines, so the tests assert checkpoints.
    session.run("flake8", "--select=ASYNC1", "--ignore=ASYNC109,ASYNC110,ASYNC114", *SOURCES)


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict, pyright, and whether the public face is typed whole. Posargs go to mypy alone."""
    session.install("-e", ".[all]", "nox", *group("types"))
    session.run("mypy", *session.posargs)
    if session.posargs:
        return
    session.run("pyright")
    for package in SOURCES:
        session.run("pyright", "--ignoreexternal", "--verifytypes", Path(package).name, silent=True)


@nox.session
def demo(session: nox.Session) -> None:
    """`metafora demo`: a cluster in one process. Posargs go to it: `nox -s demo -- --url zk://...`."""
    session.install("-e", ".[zookeeper,cli]")
    session.run("metafora", "demo", *session.posargs)


@nox.session
def stress(session: nox.Session) -> None:
    """The benchmarks, each on a ZooKeeper of its own; slow. Posargs choose: `nox -s stress -- claims --tasks 1000`."""
    need_zookeeper(session)
    session.install("-e", ".[zookeeper,cli]")
    for arguments in [session.posargs] if session.posargs else [[name] for name in BENCHMARKS]:
        session.run("python", "-m", "stress.bench", *arguments)


@nox.session
def simulate(session: nox.Session) -> None:
    """A search for broken promises on virtual time. Posargs go to it: `nox -s simulate -- --minutes 10 --seed 7`."""
    session.install("-e", ".", *group("test"))
    session.run("python", "-m", "stress.simulate", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Whether that search finds deliberate bugs. Posargs go to it: `nox -s mutants -- --histories 500 NAME`."""
    session.install("-e", ".", *group("test"))
    session.run("python", "-m", "stress.mutants", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Chaos against real servers, minutes long. Posargs go to it: `nox -s chaos -- --seed 7 --report out.html`."""
    need_zookeeper(session)
    session.install("-e", ".[zookeeper,cli]")
    session.run("python", "-m", "stress.chaos", *session.posargs)


def group(name: str) -> list[str]:
    """The requirements of one dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(GROUPS, name))


def need_zookeeper(session: nox.Session) -> None:
    """Sees to ZooKeeper's jars and a Java to run them, and installs them where apt and root are at hand.

    Raises:
        nox.command.CommandFailed: the session ends, saying what to install, if they are missing and cannot be.
    """
    if shutil.which("java") and (os.environ.get("ZOOKEEPER_HOME") or ZOOKEEPER_JAR.exists()):
        return
    packages = ("zookeeper", "default-jre-headless")
    if not shutil.which("apt-get") or os.geteuid() != 0:
        session.error(
            "The tests run real ZooKeeper servers. Install Debian's packages (as root: apt-get install "
            f"{' '.join(packages)}), or Java and ZooKeeper 3.6 or newer with ZOOKEEPER_HOME set to its folder."
        )
    session.run("apt-get", "update", "-qq", external=True)
    session.run(
        *("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages),
        env={"DEBIAN_FRONTEND": "noninteractive"},
        external=True,
    )
