"""The shim of chaos runs: its control files make the disk slow or the wall clock jump, and change nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("kazoo", reason="chaos runs need the extra `zookeeper`")

from stress.chaos.cluster import _build_shim, _preload

PROGRAM = """
import json, os, time
began = time.monotonic(), time.time()
file = os.open("file", os.O_WRONLY | os.O_CREAT)
for sync in (os.fsync, os.fdatasync):
    sync(file)
print(json.dumps([time.monotonic(), time.monotonic() - began[0], began[1]]))
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler chaos runs skip these faults, and say so")
@pytest.mark.parametrize(
    "control,value,slow,jump", [("", 0, 0.0, 0), ("slow-fsync", 150, 0.3, 0), ("clock-jump", -50_000, 0.0, -50_000)]
)
def test_control_files(control: str, value: int, slow: float, jump: int, tmp_path: Path) -> None:
    shim = _build_shim(tmp_path)
    if control:
        (tmp_path / control).write_text(f"{value}\n")
    before = time.monotonic(), time.time()
    command = [sys.executable, "-c", PROGRAM]
    printed = subprocess.check_output(command, cwd=tmp_path, env={**os.environ, **_preload(shim)})
    after = time.monotonic(), time.time()

    monotonic, took, wall = json.loads(printed)
    assert before[0] < monotonic < after[0]
    assert before[1] - 0.001 <= wall - jump <= after[1] + 0.001
    assert slow <= took < slow + 5


def test_without_a_compiler_there_is_no_shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert _build_shim(tmp_path) is None
    assert _preload(None) == {}
