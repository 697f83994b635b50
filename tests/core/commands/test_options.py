from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from twinsight_core.commands.options import run_options
from twinsight_core.training.runs import Run


@click.command()
@run_options(size=16, steps=1, learning_rate=1.0, start="base", frozen_blocks=0)
def places(run: Run) -> None:
    """Tells where a run writes, and what not."""
    click.echo(f"{run.out} {run.work}{'' if run.report_pictures else ', no pictures'}")


@pytest.mark.parametrize("out", [".", "../pets", "../cats/../pets/"])
def test_a_run_has_the_name_of_its_folder_and_leaves_its_work_beside_it(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path / "pets")
    done = CliRunner().invoke(places, ["--data", "x", "--out", out])
    assert done.stdout == f"{tmp_path / 'pets'} {tmp_path / '.pets.training'}\n", done.output


def test_a_link_that_a_package_is_written_to_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    done = CliRunner().invoke(places, ["--data", "x", "--out", str(tmp_path / "link")])
    assert done.stdout == f"{tmp_path / 'link'} {tmp_path / '.link.training'}\n", done.output


def test_pictures_are_left_out_of_the_report_where_that_is_asked(tmp_path: Path) -> None:
    done = CliRunner().invoke(places, ["--data", "x", "--out", str(tmp_path / "pets"), "--no-report-pictures"])
    assert done.stdout.endswith(".pets.training, no pictures\n"), done.output


def test_a_run_is_gone_on_with_or_begun_anew() -> None:
    done = CliRunner().invoke(places, ["--data", "x", "--out", "y", "--resume", "--anew"])
    assert done.exit_code == 2
    assert "--anew must not be given with --resume" in done.stderr
