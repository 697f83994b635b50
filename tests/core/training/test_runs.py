from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.errors import TrainingError
from twinsight_core.training.runs import Run

Drawn = Callable[..., None]


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
    with pytest.raises(TrainingError, match=r"names\.txt: the data has no such classes: nobody\.$"):
        run("nobody").pictures()


def test_something_must_be_left_to_train_on(run: Callable[..., Run]) -> None:
    every = run().pictures()
    with pytest.raises(TrainingError, match=r"^No class is left to train on\.$"):
        run(*every.classes).pictures()
