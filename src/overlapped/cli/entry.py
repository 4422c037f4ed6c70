"""The command's way in and out: options are read by click, exit codes and last words are ours."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from overlapped.cli.say import ExitCode, Problem, say, traceback_text, write_stderr

if TYPE_CHECKING:
    from collections.abc import Sequence

NO_CLICK = "the command line needs click: pip install 'overlapped[standard]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `overlapped` with `argv` (default: the process's own) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        import click  # noqa: F401 - is it there? commands.py is the file about it
    except ImportError:
        return _refuse(NO_CLICK, ExitCode.USAGE, arguments)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        code = ExitCode.PIPE
    if code == ExitCode.PIPE:
        _forget_stdout()
    return code


def _run(arguments: list[str]) -> int:
    """Read the options, run the command; every way it can end becomes a code and one clear line."""
    import click

    from overlapped.cli.commands import overlapped

    try:
        # not standalone: click answers Ctrl-C with exit code 1 and "Aborted!"
        result = overlapped.main(arguments, prog_name="overlapped", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        write_stderr(error.format_message() + "\n")
        return ExitCode.USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "overlapped"
        return _refuse(f"{error.format_message()} (see {path} --help)", ExitCode.USAGE, arguments)
    except (KeyboardInterrupt, click.Abort):
        return _refuse("interrupted before anything was started", ExitCode.INTERRUPTED, arguments)
    except BrokenPipeError:
        raise
    except Problem as problem:
        return _refuse(str(problem), problem.code, arguments, traceback=problem.traceback)
    except Exception as error:  # noqa: BLE001 - a fault of ours: say so in one line, the traceback for the report
        text = f"this is a fault in overlapped, please report it: {type(error).__name__}: {error}"
        return _refuse(text, ExitCode.FAILED, arguments, traceback=traceback_text(error, ours=True))
    return result if isinstance(result, int) else ExitCode.OK


def _refuse(text: str, code: int, arguments: list[str], *, traceback: str = "") -> int:
    """Say why the command ends; with --json also as the one object on stdout."""
    if traceback:
        write_stderr(traceback)
    say(text)
    if _wants_json(arguments):
        print(json.dumps({"exit_code": int(code), "error": text, "run": None}))
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
