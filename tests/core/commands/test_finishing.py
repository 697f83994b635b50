from twinsight_core.commands.finishing import card_scores
from twinsight_core.packages import MAX_SCORED_LABELS


def test_scores_of_each_class_are_in_the_card_where_there_are_not_many() -> None:
    labels = [str(number) for number in range(MAX_SCORED_LABELS)]
    scores = {"top1_accuracy": 0.33333} | dict.fromkeys((f"recall_{label}" for label in labels), 0.5)
    assert card_scores(scores, labels) == scores | {"top1_accuracy": 0.3333}
    assert card_scores(scores | {"recall_more": 0.5}, [*labels, "more"]) == {"top1_accuracy": 0.3333}
