"""The shell of this folder's tests."""

from __future__ import annotations

import pytest

from tests.support.shell import Shell


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Runs commands in this process."""
    return Shell(capsys, monkeypatch)
