"""The report: the verdict, every table and chart, and a page for each run."""

from scaling.report.page import list_study_tables, make_page, make_participants_page
from scaling.report.proposal import make_proposal, to_html, to_text

__all__ = [
    "list_study_tables", "make_page", "make_participants_page", "make_proposal", "to_html",
    "to_text",
]  # fmt: skip
