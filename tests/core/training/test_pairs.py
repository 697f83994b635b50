from pathlib import Path

import numpy as np
import pytest

from twinsight_core.errors import TrainingError
from twinsight_core.training.pairs import read_pairs

FILES = ("a/a_0001.jpg", "a/a_0002.jpg", "b/b_0001.jpg", "b/b_0003.jpg")


def listed(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    return path


def test_a_table_with_folds(tmp_path: Path) -> None:
    text = f"left,right,same,fold\n{FILES[0]},{FILES[1]},1,0\n{FILES[0]}, {FILES[2]} ,0,3\n"
    pairs = read_pairs(listed(tmp_path, text), FILES)
    assert pairs.files == FILES[:3]
    assert pairs.folds is not None
    assert [pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist(), pairs.folds.tolist()] == [
        [0, 0],
        [1, 2],
        [True, False],
        [0, 3],
    ]


def test_a_table_with_tabs_and_without_names_or_folds(tmp_path: Path) -> None:
    pairs = read_pairs(listed(tmp_path, f"{FILES[3]}\t{FILES[2]}\t1\n\n"), FILES)
    assert (pairs.files, pairs.same.tolist(), pairs.folds) == (FILES[2:], [True], None)


def test_the_list_of_lfw(tmp_path: Path) -> None:
    text = "2\t1\na\t1\t2\na\t1\tb\t3\nb\t1\t3\nb\t1\ta\t2\n"
    pairs = read_pairs(listed(tmp_path, text), FILES)
    assert pairs.folds is not None
    assert [pairs.left.tolist(), pairs.right.tolist()] == [[0, 0, 2, 2], [1, 3, 3, 1]]
    assert [pairs.same.tolist(), pairs.folds.tolist()] == [[True, False, True, False], [0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"the list is empty\.$"),
        (f"{FILES[0]},x.jpg,1\nmalformed\n", r"line 1: there is no picture `x\.jpg`; line 2: it must be LEFT,RIGHT,"),
        (f"{FILES[0]},{FILES[1]},2\n", "line 1: it must be LEFT,RIGHT,SAME"),
        ("1\t1\na\t1\n", "line 2: it must be NAME, NUMBER, NUMBER or"),
        ("left,right,same\n", r"no pair in it\.$"),
    ],
)
def test_a_list_that_breaks_a_rule_is_refused_line_by_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        read_pairs(listed(tmp_path, text), FILES)
    with pytest.raises(TrainingError, match="can't be read as text"):
        read_pairs(tmp_path / "none", FILES)


def test_no_pair_is_counted_twice(tmp_path: Path) -> None:
    pairs = read_pairs(listed(tmp_path, f"{FILES[0]},{FILES[1]},1\n{FILES[2]},{FILES[3]},1\n"), FILES)
    np.testing.assert_array_equal(np.stack([pairs.left, pairs.right]), [[0, 2], [1, 3]])
