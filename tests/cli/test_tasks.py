"""The commands submit, ls, describe, wait and rm: data on stdout, messages on stderr, and exit codes."""

from __future__ import annotations

import datetime
import io
import json
import logging
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from metafora_trio import Task
from metafora_trio._memory.store import Store
from metafora_trio.contract import TaskSnapshot
from tests.support.shell import Shell


def test_submit_prints_ids_and_ls_shows_them(shell: Shell) -> None:
    """Submitted ids are printed one a line, ready for the next command; the message goes to stderr."""
    assert shell("submit", "a", "b", "--props", '{"n": 1}') == 0
    assert (shell.out, shell.err) == ("a\nb\n", "submitted 2 tasks\n")
    assert shell("ls") == 0
    assert shell.out == "TASK  STATE      NODE  TOKEN  ASKED BY\na     unclaimed  -     -\nb     unclaimed  -     -\n"


def test_submit_as_json(shell: Shell) -> None:
    """With -o json, before or after the command, stdout is one JSON object."""
    assert shell("submit", "a", "-o", "json") == 0
    assert shell.json == {"schema": "metafora/v1", "submitted": ["a"]}
    assert shell("-o", "json", "ls") == 0
    assert [task["task"] for task in shell.json["tasks"]] == ["a"]


def test_submit_lines_of_stdin(shell: Shell) -> None:
    """`-` reads JSON lines, in which `props` is optional."""
    lines = '{"id": "a", "props": {"n": 1}}\n\n{"id": "b"}\n'
    assert shell("submit", "-", stdin=lines) == 0
    assert shell.out == "a\nb\n"
    assert shell("describe", "a", "-o", "json") == 0
    assert shell.json["tasks"][0]["props"] == {"n": 1}


@pytest.mark.parametrize("line", ["{", "7", '{"id": "a/b"}', '{"id": "b", "prop": {}}', '{"id": "b", "props": 3}'])
def test_submit_names_the_line_that_is_wrong(shell: Shell, line: str) -> None:
    """A wrong line is named by its number, and nothing is submitted."""
    assert shell("submit", "-", stdin=f'{{"id": "a"}}\n{line}\n') == 2
    assert shell.err.startswith("error: line 2 of stdin: ")
    assert shell("ls") == 0
    assert shell.rows == []


def test_submit_props_from_a_file(shell: Shell, tmp_path: Path) -> None:
    """`--props @file` reads the file."""
    path = tmp_path / "props.json"
    path.write_text('{"from": "file"}')
    assert shell("submit", "a", "--props", f"@{path}") == 0
    assert shell("describe", "a") == 0
    assert 'props   {"from": "file"}' in shell.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["a", "--props", "{"],
        ["a", "--props", "[1]"],
        ["a", "--props", "@/no/such/file"],
        ["a/b"],
        ["a", "-"],
        ["-", "--props", "{}"],
        [],
    ],
)
def test_submit_refuses_bad_usage(shell: Shell, arguments: list[str]) -> None:
    """A broken rule is reported in one line as wrong usage."""
    assert shell("submit", *arguments) == 2
    assert shell.err.startswith("error: ")
    assert shell.out == ""


def test_submit_of_an_existing_id(shell: Shell) -> None:
    """An id in the cluster is refused. So is the id of a task that has ended, unless --again is given."""
    shell.cluster.add_nodes("ant")
    assert shell("submit", "a", "--props", '{"seconds": 1}') == 0
    assert shell("submit", "again", "a", "again2") == 4
    assert shell.err.splitlines()[0] == "error: task 'a' has ended (completed): submit it with again=True"
    assert shell.err.splitlines()[1] == "hint: --again runs it once more"
    assert shell("submit", "a", "--again") == 0
    assert shell("submit", "a") == 4
    assert shell.err.startswith("error: task 'a' is in the cluster already\n")


def test_submit_tells_how_far_it_came(shell: Shell) -> None:
    """Many tasks are sent in batches. If a batch fails, the tasks of the batches before it are printed."""
    lines = "".join(json.dumps({"id": f"t{n}"}) + "\n" for n in range(1500))
    assert shell("submit", "t1200") == 0
    assert shell("submit", "-", stdin=lines) == 4
    assert shell.out.split() == [f"t{n}" for n in range(1152)]
    assert shell.err.startswith(
        "submitted the first 1,152 tasks of 1,500\nerror: task 't1200' is in the cluster already\n"
    )
    assert shell("ls") == 0
    assert len(shell.rows) == 1153


def test_an_outage_while_tasks_are_submitted(shell: Shell) -> None:
    """Submitted tasks are printed, and tasks that may have been submitted are named. Large tasks make small batches."""
    padding = {"padding": "x" * 300_000}
    lines = "".join(json.dumps({"id": f"t{n}", "props": padding if n < 3 else {}}) + "\n" for n in range(100))
    shell.cluster.answers = 2
    assert shell("submit", "-", "-o", "json", stdin=lines) == 5
    assert shell.json["submitted"] == ["t0", "t1"]
    assert shell.err.splitlines()[:3] == [
        "not submitted, or nobody knows: t2, t3, t4, t5, t6, and 59 more",
        "submitted the first 2 tasks of 100",
        "error: no answer within 10 s",
    ]


def test_ls_shows_the_owner_of_each_task(shell: Shell) -> None:
    """It shows node and token, and filters by state and node."""
    shell.cluster.add_nodes("ant", "bee")
    assert shell("submit", "a", "b", "c") == 0
    assert shell("ls") == 0
    assert {(row[1], row[2]) for row in shell.rows} == {("running", "ant"), ("running", "bee")}
    assert shell("ls", "--node", "ant", "-o", "json") == 0
    of_ant = {task["node"] for task in shell.json["tasks"]}
    assert {identity.split(".")[0] for identity in of_ant} == {"ant"}
    assert shell("ls", "--state", "unclaimed") == 0
    assert shell.rows == []


def test_failed_task_from_ls_to_its_traceback(shell: Shell) -> None:
    """wait reports a failure by exit code 1, ls --finished in one line, and describe with the traceback."""
    shell.cluster.add_nodes("ant")
    assert shell("submit", "bad", "--props", '{"fail": true}') == 0
    assert shell("submit", "good", "--props", '{"seconds": 1}') == 0
    assert shell("wait", "bad", "good") == 1
    assert shell.rows == [["bad", "failed", "ValueError:", "as", "requested"], ["good", "completed"]]
    assert shell("wait", "good") == 0
    assert shell("ls") == 0
    assert shell.rows == []
    assert shell("ls", "--state", "failed") == 0
    assert shell.rows == [["bad", "failed", "-", "-", "ValueError:", "as", "requested"]]
    assert shell("describe", "bad") == 0
    assert "Traceback (most recent call last):" in shell.out
    assert 'raise ValueError("as requested")' in shell.out
    assert shell("describe", "bad", "-o", "json") == 0
    assert shell.json["tasks"][0]["errors"][0]["type"] == "ValueError"


def test_retry(shell: Shell) -> None:
    """Tasks that have ended run again with the properties they had. The ids are printed, and errors do not stop it."""
    shell.cluster.add_nodes("ant")
    assert shell("submit", "a", "b", "--props", '{"fail": true}') == 0
    assert shell("wait", "a", "b") == 1
    assert shell("retry", "a", "nope", "b") == 3
    assert (shell.out, shell.err.splitlines()[0]) == ("a\nb\n", "error: no task 'nope'")
    assert shell("wait", "a", "b") == 1  # the same properties, the same failure
    assert [row[:2] for row in shell.rows] == [["a", "failed"], ["b", "failed"]]
    assert shell("retry", "b", "-o", "json") == 0
    assert shell.json == {"schema": "metafora/v1", "retried": ["b"]}
    assert shell("submit", "c") == 0
    assert shell("retry", "c") == 4
    assert (shell.out, shell.err.splitlines()[0]) == ("", "error: task 'c' is in the cluster already")


def test_describe_shows_where_and_when_a_task_ended(shell: Shell) -> None:
    shell.cluster.add_nodes("ant")
    assert shell("submit", "a", "--props", '{"seconds": 5}') == 0
    assert shell("wait", "a") == 0
    assert shell("describe", "a") == 0
    lines = dict(line.split(maxsplit=1) for line in shell.out.splitlines())
    assert lines["node"].startswith("ant.")
    assert "  token " in lines["node"]
    assert lines["props"] == '{"seconds": 5}'
    started, ended = (datetime.datetime.fromisoformat(lines[name]) for name in ("started", "ended"))
    assert ended - started == datetime.timedelta(seconds=5)
    assert shell("describe", "a", "-o", "json") == 0
    (task,) = shell.json["tasks"]
    end = task["end"]
    assert (task["node"], end["node"].partition(".")[0], task["props"]) == (None, "ant", {"seconds": 5})
    assert isinstance(end["token"], int)
    assert datetime.datetime.fromisoformat(end["ended"]) > datetime.datetime.fromisoformat(end["started"])


def test_describe_shows_the_others(shell: Shell) -> None:
    """If one task does not exist, the others are still shown."""
    shell.cluster.add_nodes("ant")
    assert shell("submit", "a", "b") == 0
    assert shell("describe", "a", "nope", "b") == 3
    assert shell.err == "error: no task 'nope'\nhint: `metafora ls --finished` lists what there is\n"
    assert [line for line in shell.out.splitlines() if line.startswith("task")] == ["task    a", "task    b"]
    assert "node    ant." in shell.out


def test_wait(shell: Shell) -> None:
    """The exit code is 6 after a timeout, and 3 for an unknown task. Without ids, it waits for all current tasks."""
    shell.cluster.add_nodes("ant")
    assert shell("submit", "long") == 0
    assert shell("submit", "short", "--props", '{"seconds": 60}') == 0
    assert shell("wait", "--timeout", "300") == 6
    assert shell.rows == [["short", "completed"]]
    assert shell.err == "error: 1 task has not ended within 300 s: long\n"
    assert shell("wait", "nope") == 3
    assert shell.out == ""
    assert shell("rm", "long") == 0
    assert shell("wait") == 0


def test_an_outage_while_waiting(shell: Shell) -> None:
    """Tasks that ended before the outage are printed."""
    shell.cluster.add_nodes("ant")
    assert shell("submit", "bad", "--props", '{"fail": true}') == 0
    assert shell("submit", "b", "--props", '{"seconds": 60}') == 0
    shell.cluster.answers = 1
    assert shell("wait", "-o", "json", "bad", "b") == 5
    assert [(task["task"], task["state"]) for task in shell.json["tasks"]] == [("bad", "failed")]
    assert shell.err.startswith("error: no answer within 10 s\n")


def test_an_outage_in_the_middle(shell: Shell) -> None:
    """Deleted tasks are printed, tasks that may have been deleted are named, and then the error is printed."""
    assert shell("submit", *"abcde") == 0
    shell.cluster.answers = 3
    assert shell("describe", *"abcde") == 5
    shown = [line.split()[1] for line in shell.out.splitlines() if line.startswith("task ")]
    assert len(shown) == 3
    shell.cluster.answers = 3
    assert shell("rm", *"abcde", "nope") == 5
    deleted = shell.out.split()
    told, *rest = [line for line in shell.err.splitlines() if "'nope'" not in line and "--finished" not in line]
    left = told.removeprefix("not deleted, or nobody knows: ").split(", ")
    assert rest[0] == "error: no answer within 10 s"
    assert deleted == sorted(deleted)
    assert {*deleted, *left, "nope"} == {*"abcde", "nope"}
    shell.cluster.answers = float("inf")
    assert shell("ls", "--state", "deleting") == 0
    assert [row[0] for row in shell.rows] == deleted


def test_an_interrupt_in_the_middle(shell: Shell) -> None:
    """After Ctrl-C too, the output shows which tasks were deleted."""
    assert shell("submit", *"abc") == 0
    shell.cluster.answers = 2
    shell.cluster.silence = lambda: signal.raise_signal(signal.SIGINT)
    assert shell("rm", *"abc", "-o", "json") == 130
    deleted = shell.json["deleted"]
    (left,) = {*"abc"} - {*deleted}
    assert shell.err == f"not deleted, or nobody knows: {left}\n"


def test_rm_deletes_what_it_can(shell: Shell) -> None:
    """Deleted tasks are printed; the first error gives the exit code."""
    shell.cluster.add_nodes("ant")
    assert shell("submit", "a", "b", "c") == 0
    assert shell("rm", "a", "nope", "b", "a") == 3
    assert shell.out == "a\nb\n"
    assert shell.err.startswith("error: no task 'nope'\n")
    assert shell("ls") == 0
    assert [row[0] for row in shell.rows] == ["c"]
    assert shell("rm", "c", "-o", "json") == 0
    assert shell.json["deleted"] == ["c"]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer, code, left", [("n\n", 1, ["a"]), ("y\n", 0, [])])
def test_rm_asks_on_a_terminal(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: list[str]
) -> None:
    """On a terminal, rm asks before it deletes."""
    assert shell("submit", "a") == 0
    monkeypatch.setattr("io.StringIO", _Terminal)
    assert shell("rm", "a", stdin=answer) == code
    assert "Delete a, and stop what runs?" in shell.err
    shell.cluster.add_nodes("ant")  # removes the deleted tasks
    assert shell("ls") == 0
    assert [row[0] for row in shell.rows] == left


def test_a_record_that_cannot_be_read_is_shown_with_its_task(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists, `describe` and `wait` show the reason, and the tasks beside it as ever."""
    shell.cluster.add_nodes("ant")
    assert shell("submit", "bad", "good", "--props", '{"seconds": 1}') == 0
    assert shell("wait") == 0
    right = Store.look_up

    def look_up(store: Store, task: str) -> TaskSnapshot:
        return TaskSnapshot(None, None, (), "", "it is not JSON") if task == "bad" else right(store, task)

    monkeypatch.setattr(Store, "look_up", look_up)
    assert shell("ls", "--finished") == 0
    assert [(row[0], row[1], row[4:]) for row in shell.rows] == [
        ("bad", "unreadable", ["it", "is", "not", "JSON"]),
        ("good", "completed", []),
    ]
    assert shell("ls", "--state", "unreadable", "-o", "json") == 0
    assert [(task["task"], task["problem"]) for task in shell.json["tasks"]] == [("bad", "it is not JSON")]
    assert shell("describe", "bad") == 0
    assert shell.out.splitlines() == ["task    bad", "state   unreadable", "problem it is not JSON"]
    assert shell("wait", "good", "bad") == 1
    assert shell("wait", "good") == 0


def test_ls_of_an_unknown_node(shell: Shell) -> None:
    """A node that is alive but owns nothing has an empty list. One that does not exist is an error."""
    shell.cluster.add_nodes("ant")
    assert shell("ls", "--node", "ant") == 0
    assert shell.rows == []
    assert shell("ls", "--node", "bee") == 3
    assert (shell.out, shell.err.splitlines()[0]) == ("", "error: no live node 'bee'")


@pytest.mark.parametrize("verbose", [[], ["-v"]])
def test_submit_says_what_it_creates(shell: Shell, monkeypatch: pytest.MonkeyPatch, verbose: list[str]) -> None:
    """A coordinator logs that it has created its namespace, and the command says it once, in one line."""
    right = Store.submit

    def submit(store: Store, tasks: Sequence[Task], *, again: bool) -> None:
        right(store, tasks, again=again)
        logging.getLogger("metafora_trio.memory").info("created namespace %s", "/x")

    monkeypatch.setattr(Store, "submit", submit)
    assert shell(*verbose, "submit", "a") == 0
    assert (shell.out, shell.err) == ("a\n", "created namespace /x\nsubmitted 1 task\n")
    logger = logging.getLogger("metafora_trio")
    assert (logger.level, logger.propagate) == (logging.NOTSET, True)
