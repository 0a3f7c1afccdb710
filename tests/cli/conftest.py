"""The `shell` fixture of the command line tests."""

from __future__ import annotations

import pytest

from tests.support.shell import Shell


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Return a shell that runs commands in this process."""
    return Shell(capsys, monkeypatch)
