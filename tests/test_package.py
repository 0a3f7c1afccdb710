"""The package as a whole: its public names, the cost of importing it, and the imports that it may contain."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import metafora_trio
from metafora_trio import contract

CORE = Path(metafora_trio.__file__).parent
PUBLIC = [
    "Balancer",
    "BrokerTooOld",
    "Claim",
    "Client",
    "Clock",
    "Command",
    "CommandName",
    "Consumer",
    "ConsumerOptions",
    "ConsumerStatistics",
    "Coordinator",
    "CoordinatorUnavailable",
    "Handler",
    "InvalidName",
    "InvalidTask",
    "LayoutMismatch",
    "MemoryCoordinator",
    "MetaforaError",
    "NamespaceNotFound",
    "NodeInfo",
    "NodeNotFound",
    "NodeStatus",
    "NodesChanged",
    "Outcome",
    "RunningTask",
    "SessionLost",
    "StateName",
    "StopReason",
    "Task",
    "TaskChanged",
    "TaskError",
    "TaskExists",
    "TaskFinished",
    "TaskLease",
    "TaskNotFound",
    "TaskState",
    "TaskStatus",
    "TaskStatusName",
    "Watch",
    "open_client",
    "open_consumer",
]
APART = ("cli", "testing")  # parts of the core with dependencies of their own, from extras


def imported_by(source: Path) -> set[str]:
    """Return the top-level names of everything that a file imports, at any depth, without importing it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def core_files() -> list[Path]:
    return sorted(path for path in CORE.rglob("*.py") if path.relative_to(CORE).parts[0] not in APART)


def test_public_names() -> None:
    """Public names are added or removed only on purpose: change this list and the changelog, too."""
    no_names = (ModuleType, type(annotations))
    names = [name for name, value in vars(metafora_trio).items() if not isinstance(value, no_names)]
    assert sorted(name for name in names if not name.startswith("_")) == PUBLIC


def test_import_loads_no_extra() -> None:
    """`import metafora_trio` costs Trio's import and little more: no backend, no command line, no test tools."""
    program = "import sys, metafora_trio; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert loaded & {"click", "hypothesis", "kazoo", "metafora_trio_zookeeper", "pytest", "pytest_trio"} == set()
    assert {"metafora_trio", "trio"} <= loaded


@pytest.mark.parametrize("source", core_files(), ids=lambda path: str(path.relative_to(CORE)))
def test_core_imports_only_trio(source: Path) -> None:
    """The core imports the standard library, trio and trio_util: never a backend."""
    allowed = {"metafora_trio", "trio", "trio_util"}
    assert imported_by(source) - sys.stdlib_module_names <= allowed


@pytest.mark.parametrize("source", [*sorted(CORE.glob("_model/*.py")), CORE / "_errors.py"], ids=lambda path: path.stem)
def test_data_and_decisions_are_pure(source: Path) -> None:
    """Code that decides does not import Trio, so it can be tested without an event loop, and cannot block one."""
    assert imported_by(source) & {"trio", "trio_util", "threading", "socket", "time"} == set()


@pytest.mark.parametrize("package", ["metafora_trio", "metafora_trio_zookeeper"])
def test_packages_are_typed(package: str) -> None:
    """Both packages are installed, also by the wheel, and tell type checkers that they are typed."""
    spec = find_spec(package)  # does not import it, so this holds without kazoo
    assert spec is not None
    assert spec.origin is not None
    assert (Path(spec.origin).parent / "py.typed").exists()


def test_backends_are_found_by_scheme() -> None:
    """The command line finds both coordinators by the scheme of a URL."""
    found = {entry.name: entry for entry in entry_points(group="metafora_trio.coordinators")}
    assert {name: entry.value for name, entry in found.items()} == {
        "memory": "metafora_trio._memory.coordinator:from_url",
        "zk": "metafora_trio_zookeeper:from_url",
    }
    assert isinstance(found["memory"].load()("memory://"), metafora_trio.Coordinator)


def test_a_coordinator_needs_public_names_only() -> None:
    """The embedded coordinator, which is the example for authors, imports only public names from the core."""
    public = vars(metafora_trio).keys() | vars(contract).keys()
    for file in sorted(CORE.glob("_memory/*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metafora_trio"):
                assert {alias.name for alias in node.names} <= public, f"{file.name}: from {node.module}"


def test_every_test_has_a_bound(pytestconfig: pytest.Config) -> None:
    """A test that hangs fails by itself, long before the whole run is given up."""
    assert 0 < float(pytestconfig.getini("timeout")) < float(pytestconfig.getini("faulthandler_timeout"))
