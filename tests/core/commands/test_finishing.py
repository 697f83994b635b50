import sys

import pytest

from twinsight_core.commands.finishing import card_scores, recipe
from twinsight_core.packages import MAX_SCORED_LABELS


def test_a_recipe_is_the_command_without_paths_and_words(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["twinsight", "train", "cnn", "--data", "/home/me/x", "--out=/tmp/y", "--steps", "5", "--resume",
             "--description", "some words", "--licence=MIT", "--skip-bad", "--pairs", "/home/me/list"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    assert recipe() == "twinsight train cnn --data DATA --out OUT --steps 5 --skip-bad --pairs PAIRS"


@pytest.mark.parametrize("name", ["exclude", "annotations"])
def test_a_recipe_tells_no_other_file_of_the_machine_either(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["twinsight", "train", f"--{name}", "/home/me/file", f"--{name}=/home/me/other"])
    assert recipe() == f"twinsight train --{name} {name.upper()} --{name} {name.upper()}"


def test_a_recipe_names_a_model_by_its_folder_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["twinsight", "train", "cnn", "--start", "/home/me/models/first", "--teacher=/home/me/models/large/"]
    monkeypatch.setattr(sys, "argv", words)
    assert recipe() == "twinsight train cnn --start first --teacher large"


def test_scores_of_each_class_are_in_the_card_where_there_are_not_many() -> None:
    labels = [str(number) for number in range(MAX_SCORED_LABELS)]
    scores = {"top1_accuracy": 0.33333} | dict.fromkeys((f"recall_{label}" for label in labels), 0.5)
    assert card_scores(scores, labels) == scores | {"top1_accuracy": 0.3333}
    assert card_scores(scores | {"recall_more": 0.5}, [*labels, "more"]) == {"top1_accuracy": 0.3333}
