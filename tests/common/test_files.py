"""common.files: a file is whole or not there at all, and a failure is one line."""

import errno
import json
import math
import os
import stat

import pytest

from common.errors import UserError
from common.files import write_json, write_whole


def fail_with(number: int):
    def fail(_descriptor):
        raise OSError(number, os.strerror(number))

    return fail


def test_json_has_null_for_what_is_no_number(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"loss": math.nan, "nested": [1.5, math.inf], "tuple": (1, -math.inf)})
    assert json.loads(path.read_text()) == {
        "loss": None, "nested": [1.5, None], "tuple": [1, None],
    }  # fmt: skip
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "No space left on device; free some space"),
        (errno.EDQUOT, "Disk quota exceeded; free some space"),
        (errno.EIO, "Input/output error; choose another --workdir"),
    ],
)
def test_a_failure_leaves_the_old_file_and_names_the_fix(tmp_path, monkeypatch, number, fix):
    path = tmp_path / "a.json"
    write_whole(path, "old")
    monkeypatch.setattr(os, "fsync", fail_with(number))
    with pytest.raises(UserError) as caught:
        write_whole(path, "half", "choose another --workdir")
    assert str(caught.value) == f"{path}: cannot be written: {fix}"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_its_own(tmp_path):
    path = tmp_path / "a"
    before = os.umask(0o027)
    try:
        write_whole(path, "x")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        write_whole(path, "y")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot be written: it is a folder; name a file in it"):
        write_whole(tmp_path, "x")
