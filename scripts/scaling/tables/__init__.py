"""The tables: each a function of runs or of a Study, all written by one set of writers."""

from common.lazy import export_lazily

# The README's need no pandas, which takes most of a command's start.
__all__, __getattr__ = export_lazily(__name__, {
    "check": "Verdict check_tables count_verdicts format_checked list_checked",
    "cost": "PlannedJob make_cost make_estimate",
    "devices": "compare_devices format_comparison",
    "from_csv": "make_csv_table read_csv_table",
    "hardware": "add_hardware make_hardware_table",
    "participants": "Workshop make_participants_tables make_workshop",
    "readme": "Site make_memory_table make_readme_tables",
    "scaling": "make_fixed_work make_growing make_option_tables make_strategies make_target_table",
    "summary": "format_summary make_summary_tables",
    "table": "Cell FORMATS Table missing say show text_to_html",
})  # fmt: skip
