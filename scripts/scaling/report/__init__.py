"""The report: the verdict, every table and chart, and a page for each run."""

from scaling.report.page import list_study_tables, make_page
from scaling.report.participants import make_participants_page

__all__ = ["list_study_tables", "make_page", "make_participants_page"]
