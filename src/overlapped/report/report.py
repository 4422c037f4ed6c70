"""The value that `flow.run()` returns: a finished run's record with the words to tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from overlapped.record import FailureRecord, RunRecord, StageRecord


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did and where its time went; `str(report)` is the summary for people.

    Attributes:
        record: everything the run measured.
    """

    record: RunRecord

    @property
    def items(self) -> int:
        """Items delivered at the end of the flow."""
        return self.record.items

    @property
    def failed(self) -> int:
        """Items whose failure reached the end of the flow."""
        return self.record.failed

    @property
    def failures(self) -> tuple[FailureRecord, ...]:
        """The first failed items, each with its stage, exception and attempts (bounded at 1,000)."""
        return self.record.failures

    @property
    def elapsed_s(self) -> float:
        """Wall time of the run, s."""
        return self.record.elapsed_s

    @property
    def stages(self) -> tuple[StageRecord, ...]:
        """One record a stage, in flow order."""
        return self.record.stages

    @property
    def cleanup_errors(self) -> tuple[BaseException, ...]:
        """Exceptions raised while the run was being closed."""
        return self.record.cleanup_errors

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data for JSON: numbers, lists and text; items and exceptions as text.

        Its first field, "schema", names the version; docs/account.md describes the fields.
        """
        from overlapped.report.data import to_dict

        return to_dict(self.record)

    def html(self) -> str:
        """One self-contained HTML page, at most 300 kB: no script runs in it and nothing is fetched.

        Raises:
            UsageError: jinja2 is missing.
        """
        from overlapped.report import files, page

        files.need_jinja("html()")
        return page.page(self.record)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as `html()` gives it; `overlapped report PATH` reads it back.

        Raises:
            UsageError: jinja2 is missing, or the file cannot be written there.
        """
        from overlapped.report import files

        files.saver(path, None)(self)

    def trace(self) -> dict[str, Any]:
        """The run as Chrome trace events: `json.dump` it, and open the file in ui.perfetto.dev or chrome://tracing."""
        from overlapped.report.trace import trace

        return trace(self.record)

    def _repr_html_(self) -> str | None:
        """The report inside a notebook: pictures and tables, no script."""
        from overlapped.report import files, page

        if not files.has_jinja():
            return None
        return page.fragment(self.record)

    def __str__(self) -> str:
        """The end summary: what was done, where the time went, what failed."""
        from overlapped.report.text import summary  # drawing is loaded when something is drawn

        return summary(self.record)
