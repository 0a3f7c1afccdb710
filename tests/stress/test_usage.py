"""The command lines of benchmarks and chaos runs: wrong usage is reported before anything is started."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("kazoo", reason="both need the extra `zookeeper`")

from stress.bench.command import main as bench
from stress.chaos.command import main as chaos


@pytest.mark.parametrize(
    "main, arguments",
    [
        (bench, []),
        (bench, ["speed"]),
        (bench, ["claims", "--tasks", "0"]),
        (bench, ["claims", "--tasks", "many"]),
        (bench, ["claims", "--servers", "0"]),
        (chaos, ["--break", "everything"]),
        (chaos, ["--links", "wires"]),
        (chaos, ["--nodes", "1"]),
        (chaos, ["--seconds", "5"]),
        (chaos, ["--session-timeout", "1"]),
        (chaos, ["--keep", "."]),
        (chaos, ["--check", "nowhere"]),
        (chaos, ["--report", "nowhere/out.html"]),
    ],
)
def test_wrong_usage_exits_with_2(
    main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)

    assert exit.value.code == 2
    assert f"usage: python -m {main.__module__.removesuffix('.command')} " in capsys.readouterr().err
