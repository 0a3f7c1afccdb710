"""The frame of the command: global options, the table of commands, and the reports of errors."""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
from collections.abc import Sequence

import click

from ._app import App
from ._exits import ExitCode, Failure, explain

__all__ = ["cli", "main"]

_COMMANDS = {
    "demo": ("_demo.command", "A cluster at work: nodes crash, drain and join, and no task is lost."),
    "submit": ("_tasks", "Submit tasks."),
    "ls": ("_tasks", "List tasks: which node runs what."),
    "describe": ("_tasks", "Show all that is known of tasks, tracebacks too."),
    "wait": ("_tasks", "Wait until tasks have ended."),
    "retry": ("_tasks", "Run tasks again that have ended, with the properties they had."),
    "rm": ("_tasks", "Delete tasks; running ones are stopped first."),
    "nodes": ("_nodes", "List the live nodes and what they have."),
    "freeze": ("_nodes", "Freeze nodes: they keep what they have, claim nothing and give nothing."),
    "unfreeze": ("_nodes", "End a freeze."),
    "drain": ("_nodes", "Let nodes hand over all they have, and leave."),
    "balance": ("_nodes", "Let nodes balance at once."),
    "run": ("_run", "Run a node with the handler MODULE:HANDLER."),
    "doctor": ("_doctor", "Look for what is wrong with a cluster."),
}
"""The module of each command and its line in the help. Only the module of the command that is called is imported."""


def _set(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        setattr(context.ensure_object(App), parameter.name or "", value)


def _global_options(environment: bool) -> list[click.Parameter]:
    """Make the options that may come before or after the command. Only those before it look at the environment."""
    return [
        click.Option(
            ["--url"],
            metavar="URL",
            envvar="METAFORA_URL" if environment else None,
            show_envvar=True,
            callback=_set,
            expose_value=False,
            help="The cluster: zk://host:port,host:port/namespace.",
        ),
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["table", "json"]),
            callback=_set,
            expose_value=False,
            help="The form of what is printed on stdout.  [default: table]",
        ),
    ]


class _Commands(click.Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"{__package__}.{_COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        if not any(parameter.name == "url" for parameter in command.params):
            command.params += _global_options(environment=False)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in _COMMANDS.items()])


@click.group(
    cls=_Commands,
    params=_global_options(environment=True),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 exists or refused, 5 unreachable, 6 timed out, "
    "130 interrupted.",
)
@click.option("-v", "--verbose", count=True, help="Log more on stderr; twice for all there is.")
@click.version_option(package_name="metafora-trio", message="metafora-trio %(version)s")
@click.pass_context
def cli(context: click.Context, verbose: int) -> None:
    """One, and only one, running instance of every long-running task in a cluster.

    \b
    Examples:
      metafora demo
      export METAFORA_URL=zk://127.0.0.1:2181/metafora
      metafora submit report-7 --props '{"url": "https://example.org/7"}'
      metafora run my_package.tasks:handler
      metafora ls
    """
    context.ensure_object(App).verbose = verbose
    level = {0: logging.ERROR, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=level, stream=sys.stderr)


def main(arguments: Sequence[str] | None = None, *, app: App | None = None) -> int:
    """Run the command.

    Args:
        arguments: without the command's own name; by default those of the process.
        app: settings to begin with, for tests.

    Returns:
        The exit code.
    """
    app = app if app is not None else App()
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")  # a check mark must not be an error where the terminal has none
    try:
        result = cli.main(arguments, prog_name="metafora", standalone_mode=False, obj=app)
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        return _report(error, app)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        return ExitCode.INTERRUPTED
    except Exception as error:
        failure = _missing(error, app) if isinstance(error, ModuleNotFoundError) else explain(error)
        if failure is None:
            raise
        return _report(failure, app)
    return result if isinstance(result, int) else ExitCode.DONE


def _missing(error: ModuleNotFoundError, app: App) -> Failure | None:
    """Explain a missing module, if an extra installs it. Backends import late, so any command may miss one."""
    from ._coordinators import missing_extra

    return missing_extra(app.url, error)


def _report(error: click.ClickException, app: App) -> int:
    """Print the message, the hint and, if asked for, the traceback on stderr. Returns the exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if app.verbose:
        traceback.print_exc()
    code, hint = (error.code, error.hint) if isinstance(error, Failure) else (error.exit_code, "")
    if isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f"see `{error.ctx.command_path} --help`"
    click.echo(f"error: {error.format_message()}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return code
