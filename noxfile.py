"""Every check of the project, each in its own virtual environment: `nox -l` lists them.

Sessions hand on what follows `--`: `nox -s tests -- tests/model/test_view.py -k unclaimed`. The bare `nox` runs what
`.ci/run` runs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.error_on_external_run = True
nox.options.reuse_venv = "yes"

ROOT = Path(__file__).parent
GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")
SOURCES = ("metafora_trio", "coordinators/metafora_trio_zookeeper")
BENCHMARKS = ("claims", "cluster", "failover", "handover", "join", "idle", "client")
ZOOKEEPER_JAR = Path("/usr/share/java/zookeeper.jar")
ZOOKEEPER_TESTS = "tests/zookeeper"
NO_SELECTION = ("--basetemp", "--confcutdir", "--deselect", "--ignore", "--junitxml", "--log-file", "--rootdir")
"""The options of pytest whose value is a path and selects nothing."""


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests and measure the coverage of the core. Posargs go to pytest: `nox -s tests -- tests/core`."""
    if may_need_zookeeper(session.posargs):
        provide_zookeeper(session)
    session.install("-e", ".[all]", *group("test"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    # A selection of tests cannot cover everything: then the figure is for information.
    session.run("coverage", "report", *(["--fail-under=0"] if session.posargs else []))


@nox.session
def core_only(session: nox.Session) -> None:
    """Run the tests where kazoo is not installed: the core needs no backend. Posargs go to pytest."""
    session.install("-e", ".[cli]", *group("test"))
    session.run("python", "-c", "import importlib.util; assert importlib.util.find_spec('kazoo') is None")
    session.run("pytest", "--ignore=tests/zookeeper", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel and test it, installed, in a folder without the sources. Posargs go to pytest."""
    if may_need_zookeeper(session.posargs):
        provide_zookeeper(session)
    folder = Path(session.create_tmp())
    shutil.rmtree(folder)
    folder.mkdir()
    session.install("build", *group("test"))
    session.run("python", "-m", "build", "--outdir", str(folder / "dist"), str(ROOT), silent=True)
    (built,) = (folder / "dist").glob("*.whl")
    session.install("--force-reinstall", f"{built}[all]")  # its version may be that of the last run
    for name in ("tests", "examples", "stress", "docs"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("pyproject.toml", "noxfile.py", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, folder)
    session.chdir(folder)
    session.run("pytest", "--ignore=tests/test_docs.py", *session.posargs)  # the pages are in the checkout only


@nox.session
def lint(session: nox.Session) -> None:
    """Check ruff's rules and format, and flake8-async's rules. Posargs go to `ruff check`: `nox -s lint -- --fix`."""
    session.install(*group("lint"))
    if session.posargs:
        session.run("ruff", "check", *session.posargs)
        return
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    # Leave out the rules that ruff has or pyproject.toml gives a reason against, and ASYNC9 (a checkpoint on every
    # path): it cannot see through our own coroutines, so the tests assert checkpoints.
    session.run("flake8", "--select=ASYNC1", "--ignore=ASYNC109,ASYNC110,ASYNC114", *SOURCES)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with mypy and pyright, and that the public API has all of them. Posargs go to mypy alone."""
    session.install("-e", ".[all]", "nox", *group("types"))
    session.run("mypy", *session.posargs)
    if session.posargs:
        return
    session.run("pyright")
    for package in SOURCES:
        session.run("pyright", "--ignoreexternal", "--verifytypes", Path(package).name, silent=True)


@nox.session
def demo(session: nox.Session) -> None:
    """Run `metafora demo`, a cluster in one process. Posargs go to it: `nox -s demo -- --url zk://...`."""
    session.install("-e", ".[zookeeper,cli]")
    session.run("metafora", "demo", *session.posargs)


@nox.session
def stress(session: nox.Session) -> None:
    """Run the benchmarks, which are slow, on real servers. Posargs choose: `nox -s stress -- claims --tasks 1000`."""
    provide_zookeeper(session)
    session.install("-e", ".[zookeeper,cli]")
    for arguments in [session.posargs] if session.posargs else [[name] for name in BENCHMARKS]:
        session.run("python", "-m", "stress.bench", *arguments)


@nox.session
def simulate(session: nox.Session) -> None:
    """Search for broken promises on virtual time. Posargs go to it: `nox -s simulate -- --minutes 10 --seed 7`."""
    session.install("-e", ".", *group("test"))
    session.run("python", "-m", "stress.simulate", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Check that this search finds deliberate bugs. Posargs go to it: `nox -s mutants -- --histories 500 NAME`."""
    session.install("-e", ".", *group("test"))
    session.run("python", "-m", "stress.mutants", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """Check that a test notices each small change of the protocol's code. Posargs: `nox -s mutation -- lease`."""
    session.install("-e", ".[all]", *group("test"), *group("mutation"))
    session.run("python", "-m", "stress.mutation", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Break real servers and nodes for minutes. Posargs go to it: `nox -s chaos -- --seed 7 --report out.html`."""
    provide_zookeeper(session)
    session.install("-e", ".[zookeeper,cli]")
    session.run("python", "-m", "stress.chaos", *session.posargs)


def group(name: str) -> list[str]:
    """Return the requirements of one dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(GROUPS, name))


def may_need_zookeeper(arguments: Sequence[str]) -> bool:
    """Decide whether pytest, given these arguments, may run tests that start ZooKeeper servers.

    All of those are in `tests/zookeeper`. The answer is no if that folder is ignored, or if the arguments name
    other parts of `tests` and nothing of it; in doubt it is yes.
    """
    selected: list[str] = []
    option = ""
    for argument in arguments:
        name, _, value = argument.partition("=")
        if "--ignore" in (option, name) and _inside(ZOOKEEPER_TESTS, value or argument):
            return False
        if not argument.startswith("-") and option not in NO_SELECTION:
            selected.append(argument.partition("::")[0])
        option = argument
    in_tests = [path for path in selected if _inside(path, "tests")]
    with_servers = [path for path in selected if _inside(path, ZOOKEEPER_TESTS) or _inside(ZOOKEEPER_TESTS, path)]
    return not in_tests or bool(with_servers)


def _inside(path: str, folder: str) -> bool:
    """Tell whether a path is the folder or below it. Both may be relative to the project."""
    return Path(os.path.normpath(ROOT / path)).is_relative_to(os.path.normpath(ROOT / folder))


def provide_zookeeper(session: nox.Session) -> None:
    """Find ZooKeeper's jars and a Java to run them, or install them if apt and root are available.

    Raises:
        nox.command.CommandFailed: the session ends, saying what to install, if they are missing and cannot be.
    """
    if shutil.which("java") and (os.environ.get("ZOOKEEPER_HOME") or ZOOKEEPER_JAR.exists()):
        return
    packages = ("zookeeper", "default-jre-headless")
    if not shutil.which("apt-get") or os.geteuid() != 0:
        session.error(
            "This session runs real ZooKeeper servers. Install Debian's packages (as root: apt-get install "
            f"{' '.join(packages)}), or Java and ZooKeeper 3.6 or newer with ZOOKEEPER_HOME set to its folder. "
            f"For the other tests: nox -s tests -- --ignore={ZOOKEEPER_TESTS}"
        )
    session.run("apt-get", "update", "-qq", external=True)
    session.run(
        *("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages),
        env={"DEBIAN_FRONTEND": "noninteractive"},
        external=True,
    )
