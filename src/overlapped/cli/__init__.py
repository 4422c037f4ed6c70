"""The command line: one file a command, data on stdout, everything else on stderr."""

from overlapped.cli.entry import main

__all__ = ["main"]
