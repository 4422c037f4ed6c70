"""The command's way in and out: options are read by click, exit codes and last words are ours."""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from overlapped.cli.say import ExitCode, Problem, say, traceback_text, write_stderr, write_stdout

if TYPE_CHECKING:
    from collections.abc import Sequence

COMPLETE = "_OVERLAPPED_COMPLETE"
"""Set by the shell to "bash_source" and the like when it asks for completions."""
NO_CLICK = "the command line needs click: pip install 'overlapped[standard]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `overlapped` with `argv` (default: the process's own) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _fill_closed_descriptors()
    try:
        importlib.import_module("click")  # is it there? commands.py is the file about it
    except ImportError:
        return _refuse(NO_CLICK, ExitCode.USAGE, arguments)
    try:
        return _flushed(_run(arguments))
    except BrokenPipeError:
        _forget_stdout()
        return ExitCode.PIPE


def _fill_closed_descriptors() -> None:
    """Started with stdout closed (`>&-`), the loop's own sockets would become stdout: fill the gap."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def _flushed(code: int) -> int:
    """`code`, unless what was printed does not reach stdout."""
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _forget_stdout()
        if code in (ExitCode.OK, ExitCode.ITEMS_FAILED):
            say(f"writing to stdout: {error.strerror}")
            return ExitCode.FAILED
    return code


def _run(arguments: list[str]) -> int:
    """Read the options, run the command; every way it can end becomes a code and one clear line."""
    import click

    try:
        return _call(arguments)
    except click.exceptions.Exit as done:  # --help, --version
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        write_stderr(error.format_message() + "\n")
        return ExitCode.USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "overlapped"
        return _refuse(f"{error.format_message()} (see {path} --help)", ExitCode.USAGE, arguments)
    except KeyboardInterrupt:
        return _refuse("interrupted before anything was started", ExitCode.INTERRUPTED, arguments)
    except BrokenPipeError:
        raise
    except Problem as problem:
        return _refuse(str(problem), problem.code, arguments, traceback=problem.traceback)
    except OSError as error:  # a full disk, no room for a temporary folder
        return _refuse(str(error), ExitCode.FAILED, arguments)
    except Exception as error:  # noqa: BLE001 - a fault of ours: one line, and the traceback for the report
        text = f"this is a fault in overlapped, please report it: {type(error).__name__}: {error}"
        return _refuse(text, ExitCode.FAILED, arguments, traceback=traceback_text(error, ours=True))


def _call(arguments: list[str]) -> int:
    """What click's own `main` does, without its answers: Ctrl-C and a closed pipe are exit code 1 there."""
    from overlapped.cli.commands import overlapped

    if instruction := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(overlapped, {}, "overlapped", COMPLETE, instruction)
    with overlapped.make_context("overlapped", list(arguments)) as context:
        result = overlapped.invoke(context)
    return result if isinstance(result, int) else ExitCode.OK


def _refuse(text: str, code: int, arguments: list[str], *, traceback: str = "") -> int:
    """Say why the command ends; with --json also as the one object on stdout."""
    if traceback:
        write_stderr(traceback)
    say(text)
    if _wants_json(arguments):
        with suppress(Problem):  # that stdout is lost cannot be told on stdout
            write_stdout(json.dumps({"exit_code": int(code), "error": text, "run": None}))
    return int(code)


def _wants_json(arguments: list[str]) -> bool:
    """Whether --json was given to us (what follows `--` is the job's)."""
    return "--json" in arguments[: arguments.index("--") if "--" in arguments else None]


def _forget_stdout() -> None:
    """Nobody reads stdout any more: without this the interpreter complains when it flushes at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass  # stdout has no descriptor: nothing will be flushed to it
