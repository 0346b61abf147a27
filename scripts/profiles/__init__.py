"""What render.py, submit.py and doctor.py share: clusters' facts, the jobs, their text.

toml_model <- cluster <- matrix <- directives <- render_job <- repository <- render_files.
"""

from profiles.cluster import Cluster, load_cluster
from profiles.matrix import DoesNotFit, Job, Matrix, load_matrix, plan_job
from profiles.render_files import check_files, plan_jobs, print_jobs, remove_script, write_jobs
from profiles.render_job import make_environment, render_job
from profiles.repository import (
    Repository,
    find_profiles,
    list_expected,
    list_misfits,
    plan_scales,
)

__all__ = [
    "Cluster",
    "DoesNotFit",
    "Job",
    "Matrix",
    "Repository",
    "check_files",
    "find_profiles",
    "list_expected",
    "list_misfits",
    "load_cluster",
    "load_matrix",
    "make_environment",
    "plan_job",
    "plan_jobs",
    "plan_scales",
    "print_jobs",
    "remove_script",
    "render_job",
    "write_jobs",
]
