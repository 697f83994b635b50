from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from twinsight_core.errors import StartupError
from twinsight_server.access.commands import keys
from twinsight_server.access.keys import changing, read_keys
from twinsight_server.access.principals import Share


def run(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(keys, [*arguments, "--file", str(file)])


def test_a_key_is_made_listed_and_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = run(
        file, "new", "--name", "phone", "--rights", "read, write", "--collections", "photos*,b", "--max-calls", "2"
    )
    assert made.exit_code == 0
    assert made.output.startswith("tws_")
    assert run(file, "new", "--name", "models", "--rights", "read", "--days", "3").exit_code == 0
    listed = run(file, "list").output.splitlines()
    assert listed[0].startswith("models: read on models; made ")
    assert ", until " in listed[0]
    assert listed[1].startswith("phone: read,write on photos*,b; made ")
    assert run(file, "revoke", "--name", "phone").exit_code == 0
    assert list(read_keys(file.read_bytes(), path=file)) == ["models"]


def test_what_is_wrong_is_told_in_a_line_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    run(file, "new", "--name", "a", "--rights", "read")
    before = file.read_bytes()
    for arguments, said in (
        (("new", "--name", "a", "--rights", "read"), "Key `a` exists already."),
        (("new", "--name", "b", "--rights", "all"), "`rights` must be some of"),
        (("new", "--name", "b", "--rights", "read,all"), "`rights` (=read,all) must be some of"),
        (("new", "--name", "b c", "--rights", "read"), "A key's name (='b c') must be"),
        (("new", "--name", "b", "--rights", "read", "--collections", "a/b"), "must be collection ids;"),
        (("revoke", "--name", "b"), "Key `b` does not exist."),
    ):
        done = run(file, *arguments)
        assert done.exit_code == 1
        assert said in done.output
        assert len(done.output.splitlines()) == 1
    assert file.read_bytes() == before
    file.write_text("{")
    assert "not a valid file of keys" in run(file, "list").output
    assert "No such file" in run(tmp_path / "none", "list").output


def test_a_file_behind_a_link_is_rewritten_where_it_is_with_its_mode(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file, link = tmp_path / "real" / "keys.json", tmp_path / "keys.json"
    assert run(file, "new", "--name", "a", "--rights", "read").exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    link.symlink_to(file)
    assert run(link, "revoke", "--name", "a").exit_code == 0
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert read_keys(file.read_bytes(), path=file) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_servers_file_that_root_changes_stays_the_servers(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    run(file, "new", "--name", "a", "--rights", "read")
    os.chown(file, 64_001, 64_002)
    assert run(file, "revoke", "--name", "a").exit_code == 0
    assert (file.stat().st_uid, file.stat().st_gid) == (64_001, 64_002)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--calls-per-s", "nan", "`keys.b.share.calls_per_s` (=nan) must be a finite number."),
        ("--items-per-s", "nan", "`keys.b.share.items_per_s` (=nan) must be a finite number."),
        ("--calls-per-s", "inf", "inf is not in the range 0<=x<=1000000000"),
        ("--items-per-s", "1e10", "is not in the range 0<=x<=1000000000"),
        ("--max-calls", "99999999999", "is not in the range 0<=x<=1000000000"),
        ("--max-streams", "1000000001", "is not in the range 0<=x<=1000000000"),
    ],
)
def test_no_key_is_written_that_could_not_be_read(
    tmp_path: Path, option: str, value: str, said: str, *, there: bool
) -> None:
    file = tmp_path / "keys.json"
    if there:
        run(file, "new", "--name", "a", "--rights", "read", option, "1000000000")
    before = file.read_bytes() if there else None
    done = run(file, "new", "--name", "b", "--rights", "read", option, value)
    assert done.exit_code in {1, 2}
    assert said in done.output
    assert "tws_" not in done.output
    assert (file.read_bytes() if file.exists() else None) == before
    if there:
        assert run(file, "revoke", "--name", "a").exit_code == 0


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    run(file, "new", "--name", "a", "--rights", "read")
    entry = file.read_text().partition('"keys": {')[2].rpartition("}")[0].rpartition("}")[0]
    file.write_text(f'{{"keys": {{{entry}, {entry}}}}}')
    with pytest.raises(StartupError, match="`a` is there twice"):
        read_keys(file.read_bytes(), path=file)


def test_keys_that_could_not_be_read_again_are_not_written(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    run(file, "new", "--name", "a", "--rights", "read")
    before = file.read_bytes()
    said = re.escape("`calls_per_s` (=1e+300) must be between 0 and 1000000000.")
    with pytest.raises(ValueError, match=said), changing(file) as known:
        known["a"] = replace(known["a"], share=Share(calls_per_s=1e300))
    with pytest.raises(ValueError, match="two keys are the same"), changing(file) as known:
        known["b"] = known["a"]
    assert file.read_bytes() == before


def test_a_full_disk_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys.json"
    run(file, "new", "--name", "a", "--rights", "read")
    before = file.read_bytes()

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    for arguments in (("new", "--name", "b", "--rights", "read"), ("revoke", "--name", "a")):
        done = run(file, *arguments)
        assert done.exit_code == 1
        assert done.output == f"twinsight: {file}: No space left on device\n"
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
