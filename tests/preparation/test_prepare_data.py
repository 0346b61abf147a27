"""prepare_data.py: its arguments, which folders it fills or refuses, and what a stop leaves."""

import errno
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

import prepare_data
from common.errors import UserError
from common.signals import STOP_SIGNALS
from preparation.bpe import run_in_process
from preparation.publish import Contents, explain_os_error, publish

SCRIPT = Path(prepare_data.__file__)
SMALL = ["--classes", "3", "--train-per-class", "4", "--val-per-class", "2", "--workers", "2"]


def prepare(
    *arguments: object, workload: str = "tinyimagenet", umask: int = 0o022
) -> tuple[int, str, str]:
    """Run `prepare_data.py WORKLOAD ARGUMENTS`; return (exit status, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with process_of_its_own(umask), redirect_stdout(out), redirect_stderr(err):
        try:
            status = prepare_data.main([workload, *map(str, arguments)])
        except SystemExit as leaving:
            status = leaving.code
    return status, out.getvalue(), err.getvalue()


@contextmanager
def process_of_its_own(umask: int) -> Iterator[None]:
    """Leave this process as it was: main() sets signal handlers and the umask."""
    handlers = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    umask = os.umask(umask)
    try:
        yield
    finally:
        os.umask(umask)
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def assert_refused(result: tuple[int, str, str], *expected: str) -> None:
    """Exit status 1, nothing on stdout, and one line on stderr that holds what is expected."""
    status, out, err = result
    assert (status, out) == (1, "")
    assert err.startswith("error: ") and err.count("\n") == 1, err
    for text in expected:
        assert text in err


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read_tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------
# A folder that is there already
# ------------------------------------------------------------------------------


def fill(target: Path, how: str) -> None:
    if how == "a file":
        target.write_text("mine")
        return
    target.mkdir()
    if how == "another's images":
        (target / "train").mkdir()
        (target / "val").mkdir()
    else:
        record = {"list": "[]", "garbage": "{", "other keys": '{"source": "digits"}'}[how]
        (target / "dataset.json").write_text(record)


@pytest.mark.parametrize(
    "how, expected",
    [
        ("a file", "data is not a folder; choose another DIR"),
        ("another's images", "was not made by this command (found: train, val); choose another"),
        ("list", "was not made by this command (found: dataset.json)"),
        ("garbage", "was not made by this command"),
        ("other keys", "was not made by this command"),
    ],
)
def test_what_is_not_ours_is_refused_and_left_alone(tmp_path, how, expected):
    fill(tmp_path / "data", how)
    before = read_tree(tmp_path)
    assert_refused(prepare("--synthetic", *SMALL, tmp_path / "data"), expected, "remove this one")
    assert read_tree(tmp_path) == before


def test_the_same_data_is_reused_and_other_data_refused(tmp_path):
    target = tmp_path / "data"
    assert prepare("--synthetic", *SMALL, target)[0] == 0
    assert "is already there" in prepare("--synthetic", *SMALL, "--workers", 1, target)[1]
    for other in (["--synthetic", *SMALL, "--seed", 1], ["--digits"]):
        assert_refused(prepare(*other, target), "holds other data", "source synthetic", "seed 0")
    next(target.glob("train/*/images/*")).unlink()
    assert_refused(
        prepare("--synthetic", *SMALL, target), "lost or gained images", "remove this one"
    )


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "data").mkdir()
    assert prepare("--synthetic", *SMALL, tmp_path / "data")[0] == 0
    assert list_names(tmp_path) == ["data"]


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "scratch")
    assert prepare("--synthetic", *SMALL, tmp_path / "data")[0] == 0
    assert (tmp_path / "data").is_symlink() and (tmp_path / "scratch/wnids.txt").is_file()


def test_two_at_once_end_with_one_dataset(tmp_path):
    """The second finds, when it is done, that the first has just put the same data there."""
    target = tmp_path / "data"

    def write_slowly(scratch: Path) -> Path:
        assert "is ready: 2 lines, " in publish(target, LINES_IDENTITY, write_lines, LINES)
        return write_lines(scratch)

    found = publish(target, LINES_IDENTITY, write_slowly, LINES)
    assert found == f"{target} is already there: 2 lines"
    assert list_names(tmp_path) == ["data"]
    assert list_names(target) == ["dataset.json", "lines.txt"]


# The least of data sets, of another kind than images.
LINES = Contents(
    "lines",
    count=lambda root: {"lines": len((root / "lines.txt").read_text().splitlines())},
    describe=lambda record: f"{record['lines']} lines",
)
LINES_IDENTITY = {"workload": "text", "source": "test", "parameters": {"seed": 0}}


def write_lines(scratch: Path) -> Path:
    (scratch / "dataset").mkdir()
    (scratch / "dataset/lines.txt").write_text("one\ntwo\n")
    return scratch / "dataset"


def test_any_kind_of_data_is_counted_its_own_way(tmp_path):
    target = tmp_path / "data"
    assert "is ready: 2 lines, " in publish(target, LINES_IDENTITY, write_lines, LINES)
    assert json.loads((target / "dataset.json").read_text()) == LINES_IDENTITY | {"lines": 2}
    (target / "lines.txt").write_text("one\n")
    with pytest.raises(UserError, match="data has lost or gained lines since it was made; choose"):
        publish(target, LINES_IDENTITY, write_lines, LINES)


# ------------------------------------------------------------------------------
# Disks, permissions, signals
# ------------------------------------------------------------------------------


def test_a_group_may_read_the_data_whatever_the_umask(tmp_path):
    assert prepare("--synthetic", *SMALL, tmp_path / "data", umask=0o077)[0] == 0
    for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o750 if path.is_dir() else 0o640), path


def run_on_small_disk(
    tmp_path: Path, mount_options: str, *arguments: object
) -> subprocess.CompletedProcess:
    """Run `prepare_data.py ARGUMENTS DISK/data`; DISK is a tmpfs that only this process sees."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        'mount -t tmpfs -o "$1" tmpfs "$2" || exit 77\n'
        'shift; disk=$1; shift; "$@" "$disk/data"; status=$?\n'
        'ls -A "$disk"; exit $status'
    )
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    result = subprocess.run(
        [*unshare, "sh", "-c", script, "sh", mount_options, disk, *command],
        capture_output=True,
        text=True,
    )
    if result.returncode == 77 or "unshare:" in result.stderr:
        pytest.skip(f"cannot mount a tmpfs here: {result.stderr.strip()}")
    return result


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare (util-linux)")
@pytest.mark.parametrize(
    "mount_options, expected",
    [
        ("size=1m", "/disk/data (No space left on device); free some, or choose a DIR on"),
        ("ro", " (Read-only file system); choose a DIR in a folder that you may write to"),
    ],
)
def test_a_full_or_read_only_disk_is_one_line(tmp_path, mount_options, expected):
    arguments = ("tinyimagenet", "--synthetic", "--classes", 4)
    result = run_on_small_disk(tmp_path, mount_options, *arguments)
    assert_refused((result.returncode, result.stdout, result.stderr), expected)


@pytest.mark.parametrize(
    "number, expected",
    [
        (errno.EDQUOT, "no space for /d ("),
        (errno.EACCES, "cannot write /d/f (Permission denied); choose a DIR in a folder that you"),
        (errno.EIO, "cannot write /d/f (Input/output error)"),
    ],
)
def test_each_failed_write_is_explained(number, expected):
    error = OSError(number, os.strerror(number), "/d/f")
    assert explain_os_error(error, Path("/d")).startswith(expected)


def test_a_parent_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(prepare("--synthetic", *SMALL, tmp_path / "file/data"), "cannot write", "DIR")


def raise_error(text: str) -> None:
    raise UserError(text)


def test_work_in_another_process_returns_raises_or_says_that_it_was_killed():
    assert run_in_process(pow, 2, 10) == 1024
    with pytest.raises(UserError, match="fix it"):
        run_in_process(raise_error, "fix it")
    with pytest.raises(UserError, match=r"a worker was killed \(out of memory\?\); give less text"):
        run_in_process(os._exit, 1)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(tmp_path, signum):
    """As Ctrl-C does, and the end of a job: every process of the group gets the signal, twice."""
    command = [sys.executable, SCRIPT, "tinyimagenet", "--synthetic", "--workers", "2"]
    process = subprocess.Popen(
        [*command, tmp_path / "data"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline_s = time.monotonic() + 30
    while not any(tmp_path.glob(".data.*.tmp/dataset/train/*/images/*.JPEG")):
        assert time.monotonic() < deadline_s and process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signum)
    time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signum)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signum
    expected = f"stopped before {tmp_path / 'data'} was complete; run the same command again"
    assert err == f"error: {expected}\n"
    assert list_names(tmp_path) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # no worker outlived it


# ------------------------------------------------------------------------------
# The command line
# ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ("", "the following arguments are required: DIR"),
        ("data", "one of the arguments --download --digits --synthetic --archive is required"),
        ("--digits --synthetic data", "not allowed with argument"),
        ("--digits", "the following arguments are required: DIR"),
        ("--digits --classes 3 data", "--classes does not apply to --digits"),
        (
            "--synthetic --md5 90528d7ca1a48142e341f4ef8d21d0de data",
            "--md5 does not apply to --syn",
        ),
        ("--archive a.zip --url http://x/ data", "--url does not apply to --archive"),
        ("--synthetic --classes 0 data", "'0' is not a whole number from 1 to 1000000"),
        ("--synthetic --classes -3 data", "--classes: "),
        ("--synthetic --image-size 4 data", "'4' is not a whole number from 8 to 1024"),
        ("--synthetic --seed 1.5 data", "'1.5' is not a whole number from 0"),
        ("--download --md5 123 data", "'123' is not 32 hexadecimal digits"),
        ("--download --url file:///etc/passwd data", "does not begin with http:// or https://"),
    ],
)
def test_wrong_arguments_exit_with_2(tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    status, out, err = prepare(*arguments.split())
    assert (status, out) == (2, "")
    assert expected in err.splitlines()[-1]
    assert list_names(tmp_path) == []


@pytest.mark.parametrize("workload", ["tinyimagenet", "gpt2", "translation"])
def test_every_option_is_explained_with_its_default(workload):
    actions = prepare_data.build_parser()._subparsers._group_actions[0].choices[workload]
    for action in actions._actions:
        assert action.help, action.option_strings
        if action.metavar in ("URL", "HEX", "N", "PIXELS"):
            assert "default: " in action.help, action.option_strings


@pytest.mark.parametrize(
    ("workload", "option"),
    [("tinyimagenet", "--synthetic"), ("gpt2", "--vocab-size"), ("translation", "--gettext")],
)
def test_help_needs_no_heavy_import(workload, option):
    """The login node's Python may have none of the packages."""
    heavy = ["torch", "numpy", "PIL", "sklearn", "urllib.request", "multiprocessing", "zipfile"]
    heavy += ["tokenizers", "polib"]
    code = (
        "import sys, prepare_data\n"
        f"try: prepare_data.main(['{workload}', '--help'])\n"
        f"finally: print([name for name in {heavy} if name in sys.modules])"
    )
    command = [sys.executable, "-S", "-c", code]
    result = subprocess.run(command, cwd=SCRIPT.parent, capture_output=True, text=True, check=True)
    assert option in result.stdout and result.stdout.endswith("\n[]\n")


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert_refused(prepare("--digits", tmp_path / "data"), "sklearn", "bash scripts/setup_env.sh")
    assert list_names(tmp_path) == []
