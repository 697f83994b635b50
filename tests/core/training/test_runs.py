import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import pytest

from twinsight_core.errors import TrainingError
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.training.runs import BACKBONES, Run

Drawn = Callable[..., None]
NETWORK = ClassifierConfig(backbone=BACKBONES["glyphs"], classes=2)


class Given(TypedDict):
    data: dict[str, str]
    network: ClassifierConfig
    start: None


DATA = Given(data={"pictures": "1f"}, network=NETWORK, start=None)


@pytest.fixture
def run(write_drawings: Drawn, tmp_path: Path) -> Callable[..., Run]:
    """Makes a run over six classes in two groups that leaves out the named ones."""
    write_drawings(tmp_path / "set.zip", groups=2, classes=3, pictures=2)

    def make(*excluded: str) -> Run:
        (tmp_path / "names.txt").write_text("\n".join(excluded) + "\n", "utf-8")
        return Run(
            data=tmp_path / "set.zip",
            out=tmp_path / "model",
            start="none",
            backbone="glyphs",
            size=16,
            augmentation="glyphs",
            steps=1,
            learning_rate=1e-3,
            frozen_blocks=0,
            skip_bad=False,
            exclude=tmp_path / "names.txt",
            resume=False,
            seed=0,
            description="",
            licence="",
            training_data="",
        )

    return make


def test_a_run_on_all_parts_of_its_data_is_refused(run: Callable[..., Run], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip") as whole:
        for name in whole.namelist():
            for part in ("train", "test"):
                whole.extract(name, tmp_path / "parts" / part)
    with pytest.raises(TrainingError, match="the data comes in parts"):
        replace(run(), data=tmp_path / "parts").pictures()


def test_classes_that_are_named_are_left_out_of_everything(run: Callable[..., Run]) -> None:
    every = run().pictures()
    assert len(every.classes) == 6
    out = every.classes[1], every.classes[4]
    left = run(*out).pictures()
    assert left.classes == tuple(name for name in every.classes if name not in out)
    assert [file.rpartition("/")[0] for file in left.files] == [left.classes[label] for label in left.labels]
    kept = np.flatnonzero([every.classes[label] in left.classes for label in every.labels])
    np.testing.assert_array_equal(left.images, every.images[kept])


def test_a_class_to_leave_out_that_is_not_there_is_named(run: Callable[..., Run]) -> None:
    with pytest.raises(TrainingError, match=r"names\.txt: these classes are not in the data: nobody\.$"):
        run("nobody").pictures()


def test_something_must_be_left_to_train_on(run: Callable[..., Run]) -> None:
    every = run().pictures()
    with pytest.raises(TrainingError, match=r"^No class is left to train on\.$"):
        run(*every.classes).pictures()


class Killed(BaseException):
    """Stands for `kill -9`."""


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ends what changes the disk before its change of this number, and a deletion after a part of it, too."""
    left = [number]

    def counted(change: Callable[..., object]) -> Callable[..., object]:
        def killed(path: Path, *others: object) -> object:
            if left[0] == 0:
                if change is shutil.rmtree:
                    next(path.rglob("*.array")).unlink()
                raise Killed
            left[0] -= 1
            return change(path, *others)

        return killed

    for owner, name in ((Path, "rename"), (Path, "replace"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


@pytest.mark.parametrize("number", range(4))
def test_a_kill_never_leaves_checkpoints_beside_another_runs_record(
    number: int, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run()
    first.begin({}, **DATA)
    for step in (20, 40):
        (first.checkpoints / str(step)).mkdir(parents=True)
        (first.checkpoints / str(step) / "one.array").write_bytes(b"one")
    other = replace(first, learning_rate=0.5, anew=True)
    killed = False
    with monkeypatch.context() as patch:
        kill_at(patch, number)
        try:
            other.begin({}, **DATA)
        except Killed:
            killed = True
    assert killed == (number < 3)
    is_first = json.loads((first.work / "run.json").read_text())["learning_rate"] == "0.001"
    assert is_first == killed
    left = sorted(one.relative_to(first.checkpoints).as_posix() for one in first.checkpoints.rglob("*.array"))
    assert left in ([], ["20/one.array", "40/one.array"] if is_first else [])
    replace(first if is_first else other, resume=True).begin({}, **DATA)
    other.begin({}, **DATA)
    assert [one.name for one in first.work.iterdir()] == ["run.json"]


def test_the_events_of_the_run_before_are_deleted_unless_it_goes_on(run: Callable[..., Run]) -> None:
    first = run()
    for other, left in ((first, 0), (replace(first, resume=True), 1), (replace(first, seed=1), 0)):
        other.begin({}, **DATA)
        assert len(list(first.events.glob("*"))) == left
        first.events.mkdir(exist_ok=True)
        (first.events / "events.out.tfevents.1.host").touch()


def test_checkpoints_of_a_run_that_is_not_known_are_not_gone_on_from(run: Callable[..., Run]) -> None:
    going_on = replace(run(), resume=True)
    going_on.begin({}, **DATA)
    (going_on.work / "run.json").write_text("{")
    with pytest.raises(TrainingError, match=r"can't be resumed: its record run\.json can't be read"):
        going_on.begin({}, **DATA)
    (going_on.work / "run.json").unlink()
    going_on.checkpoints.mkdir()
    with pytest.raises(TrainingError, match=r"can't be read .* Start over, with --anew instead of --resume; .*\.$"):
        going_on.begin({}, **DATA)
    replace(going_on, resume=False).begin({}, **DATA)
    assert not going_on.checkpoints.exists()


def test_a_run_of_an_earlier_version_is_told_as_that(run: Callable[..., Run]) -> None:
    going_on = replace(run(), resume=True)
    going_on.begin({}, **DATA)
    record = going_on.work / "run.json"
    kept = json.loads(record.read_text())
    record.write_text(json.dumps({name: value for name, value in kept.items() if name != "precision"}))
    with pytest.raises(TrainingError, match=r"it was started by an earlier version of twinsight\. Use that version"):
        going_on.begin({}, **DATA)


def test_a_run_with_another_network_is_not_gone_on_with(run: Callable[..., Run]) -> None:
    going_on = replace(run(), resume=True)
    going_on.begin({}, **DATA)
    deeper = replace(NETWORK, backbone=BACKBONES["resnet"])
    with pytest.raises(TrainingError, match=r"can't be resumed: these differ: network\. Start over"):
        going_on.begin({}, data=DATA["data"], network=deeper, start=None)
    with pytest.raises(TrainingError, match=r"these differ: classes, pictures\. "):
        going_on.begin({}, data={"pictures": "2e", "classes": "3d"}, network=NETWORK, start=None)


def test_a_run_may_go_on_with_a_lower_learning_rate_and_on_another_device_which_is_told(
    run: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    going_on = replace(run(), resume=True)
    going_on.begin({}, **DATA)
    with pytest.raises(TrainingError, match=r"these differ: learning_rate\."):
        replace(going_on, learning_rate=2e-3).begin({}, **DATA)
    record = going_on.work / "run.json"
    kept = json.loads(record.read_text()) | {"precision": "bf16"}
    record.write_text(json.dumps(kept))
    lower = replace(going_on, learning_rate=5e-4)
    with caplog.at_level("WARNING", "twinsight_core"):
        for _ in range(2):  # the second time it is the same run
            lower.begin({}, **DATA)
    assert caplog.messages == [
        "resuming with learning_rate 0.0005; it was 0.001",
        "resuming with precision f32; it was bf16",
    ]
    assert (
        lower.card(NETWORK, "twinsight train").recipe == "twinsight train (resumed; the learning rate before was 0.001)"
    )
    lowest = replace(going_on, learning_rate=1e-4)
    for _ in range(2):
        lowest.begin({}, **DATA)
    assert lowest.card(NETWORK, "").recipe == " (resumed; the learning rate before was 0.001, then 0.0005)"
    replace(lowest, resume=False).begin({}, **DATA)
    assert lowest.card(NETWORK, "twinsight train").recipe == "twinsight train"


def test_an_unfinished_run_is_begun_anew_only_where_that_is_said(run: Callable[..., Run]) -> None:
    first = run()
    checkpoint = first.checkpoints / "20"

    def begin_and_stop(one: Run) -> None:
        one.begin({}, **DATA)
        checkpoint.mkdir(parents=True, exist_ok=True)

    begin_and_stop(first)
    with pytest.raises(TrainingError, match=r"unfinished after 20 of 1 steps\. Continue it with --resume, or delete"):
        first.begin({}, **DATA)
    assert checkpoint.exists()
    begin_and_stop(replace(first, resume=True))
    replace(first, anew=True).begin({}, **DATA)
    assert not checkpoint.exists()
    begin_and_stop(first)
    other = r"holds {}, unfinished after step 20\. Delete its checkpoints with --anew, or train to another"
    with pytest.raises(TrainingError, match=other.format(r"another run \(these differ: seed\)")):
        replace(first, seed=1).begin({}, **DATA)
    assert checkpoint.exists()
    record = first.work / "run.json"
    kept = record.read_text()
    for broken in ("{", "7"):
        record.write_text(broken)
        with pytest.raises(TrainingError, match=other.format("a run whose record can't be read")):
            first.begin({}, **DATA)
    record.write_text(kept)
    assert checkpoint.exists()
    begin_and_stop(replace(first, seed=2, anew=True))
    replace(first, seed=2).end()
    replace(first, seed=2).begin({}, **DATA)  # a finished run may be had again
    assert not checkpoint.exists()
    begin_and_stop(replace(first, seed=2))
    replace(first, seed=2).end()
    begin_and_stop(replace(first, seed=2, resume=True))  # it ended early, say, and is to go on
    with pytest.raises(TrainingError, match="unfinished"):
        replace(first, seed=2).begin({}, **DATA)
