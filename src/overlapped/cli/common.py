"""What every command takes: how much it tells, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Common:
    """Options that every command knows.

    Attributes:
        quiet: no progress, no summary; errors are still said.
        verbose: the flow explained before it runs, and all frames of a traceback.
        json: one object on stdout, nothing else there.
        progress: "auto", "plain" or "none".
    """

    quiet: bool
    verbose: bool
    json: bool
    progress: str

    @property
    def view(self) -> str:
        """The kind of view to make: `progress`, and "none" for those who want quiet."""
        return "none" if self.quiet else self.progress


def common_options(command: Callable[..., Any], *, hidden: bool = False) -> Callable[..., Any]:
    """The options of `Common`, added to a command; on the group they work, too, without being listed."""
    options = (
        click.option("-q", "--quiet", is_flag=True, hidden=hidden, help="No progress and no summary."),
        click.option("-v", "--verbose", is_flag=True, hidden=hidden, help="Explain the flow; full tracebacks."),
        click.option("--json", is_flag=True, hidden=hidden, help="The run's record on stdout, as one JSON object."),
        click.option(
            "--progress",
            type=click.Choice(["auto", "plain", "none"]),
            hidden=hidden,
            show_default="auto",
            help="On stderr: drawn on a terminal, else a line each 10 s.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def merged(common: dict[str, Any]) -> Common:
    """The options given before the command's name and after it."""
    before: dict[str, Any] = click.get_current_context().obj
    given = {name: value or before[name] for name, value in common.items()}
    given["progress"] = given["progress"] or "auto"
    return Common(**given)
