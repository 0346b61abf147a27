"""The tables: each a function of runs or of a Study, all written by one set of writers."""

from common.lazy import export_lazily

# The README's need no pandas, which takes most of a command's start.
__all__, __getattr__ = export_lazily(__name__, {
    "check": "Verdict check_tables count_verdicts format_checked list_checked",
    "cost": "make_cost",
    "devices": "compare_devices format_comparison",
    "estimate": "PlannedJob make_estimate",
    "fixed_work": "make_fixed_work",
    "from_csv": "make_csv_table read_csv_table",
    "growing": "make_growing",
    "hardware": "add_hardware make_hardware_table",
    "memory": "make_memory_table",
    "option": "make_option_tables",
    "participants": "Workshop make_participants_tables make_workshop",
    "readme": "Site make_readme_tables",
    "strategies": "make_strategies",
    "summary": "format_summary make_summary_tables",
    "target": "make_target_table",
    "table": "Cell FORMATS Table missing say show text_to_html",
})  # fmt: skip
