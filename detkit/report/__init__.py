"""The report on an evaluation: one HTML file that shows where a detector fails."""

from detkit.report.analysis import Analysis, Scores
from detkit.report.content import About, ReportData
from detkit.report.page import write_report
from detkit.report.run import ReportHook, RunReport

__all__ = ["About", "Analysis", "ReportData", "ReportHook", "RunReport", "Scores", "write_report"]
