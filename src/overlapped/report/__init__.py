"""What a run measured, told to people: reads frozen `RunRecord`s, never the live account."""

from overlapped.report.report import Report

__all__ = ["Report"]
