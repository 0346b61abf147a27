"""The tables: each a function of runs or of a Study, all written by one set of writers."""

from importlib import import_module

# Name -> the module that has it. Imported when first asked for: the README's need no pandas.
_PUBLIC = {
    "FORMATS": "table",
    "Cell": "table",
    "Site": "readme",
    "Table": "table",
    "Verdict": "check",
    "check_tables": "check",
    "compare_devices": "devices",
    "count_verdicts": "check",
    "format_checked": "check",
    "format_comparison": "devices",
    "format_summary": "summary",
    "list_checked": "check",
    "make_cost": "cost",
    "make_csv_table": "from_csv",
    "make_fixed_work": "fixed_work",
    "make_memory_table": "memory",
    "make_readme_tables": "readme",
    "make_strategies": "strategies",
    "make_summary_tables": "summary",
    "missing": "table",
    "read_csv_table": "from_csv",
    "say": "table",
    "show": "table",
    "text_to_html": "table",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
