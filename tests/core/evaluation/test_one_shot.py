import re

import numpy as np
import pytest

from twinsight_core.evaluation.one_shot import Protocol, drawer_runs_score, one_shot_score, runs_score

PROTOCOLS: tuple[Protocol, ...] = ("within_alphabet", "unstructured")
ALPHABETS, CHARACTERS, DRAWERS = 3, 6, 4


def drawings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, alphabets and drawers of 3 alphabets of 6 characters by 4 drawers each."""
    labels = np.repeat(np.arange(ALPHABETS * CHARACTERS), DRAWERS)
    return labels, labels // CHARACTERS, np.tile(np.arange(DRAWERS), ALPHABETS * CHARACTERS)


def one_hot(numbers: np.ndarray) -> np.ndarray:
    rows: np.ndarray = np.eye(int(numbers.max()) + 1, dtype=np.float32)[numbers]
    return rows


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_embeddings_that_know_the_character_are_always_right(protocol: Protocol) -> None:
    labels, alphabets, _ = drawings()
    score = one_shot_score(one_hot(labels), labels, protocol=protocol, alphabets=alphabets, ways=5, trials=200)
    assert (score.accuracy, score.high, score.trials, score.ways) == (1.0, 1.0, 200, 5)
    assert score.low == pytest.approx(200 / (200 + 1.95996**2), abs=1e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_collapsed_embeddings_are_right_by_chance(protocol: Protocol) -> None:
    labels, alphabets, _ = drawings()
    same = np.ones((len(labels), 2), np.float32)
    score = one_shot_score(same, labels, protocol=protocol, alphabets=alphabets, ways=5, trials=4000)
    assert score.low < 1 / 5 < score.high


def test_alphabets_that_differ_help_only_where_trials_mix_them() -> None:
    # Embeddings that know the alphabet alone: within one they say nothing.
    labels, alphabets, _ = drawings()
    embeddings = one_hot(alphabets)
    within = one_shot_score(embeddings, labels, protocol="within_alphabet", alphabets=alphabets, ways=5, trials=2000)
    mixed = one_shot_score(embeddings, labels, protocol="unstructured", ways=5, trials=2000)
    assert within.low < 1 / 5 < within.high
    assert mixed.low > 0.4


def test_the_seed_alone_decides_the_trials() -> None:
    labels, alphabets, _ = drawings()
    embeddings = np.random.default_rng(0).normal(size=(len(labels), 4)).astype(np.float32)

    def accuracy(seed: int) -> float:
        return one_shot_score(
            embeddings, labels, protocol="within_alphabet", alphabets=alphabets, ways=5, trials=300, seed=seed
        ).accuracy

    assert accuracy(1) == accuracy(1)
    assert len({accuracy(seed) for seed in range(5)}) > 1


def test_given_runs_worked_by_hand() -> None:
    references = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    tests = np.array([[[0.8, 0.6], [0.6, 0.8]], [[0.8, 0.6], [0.6, 0.8]]])
    # The first run is all right; in the second the closest are 1 and 0.
    score = runs_score(references, tests, np.array([[0, 1], [1, 1]]))
    assert (score.accuracy, score.trials, score.ways, score.protocol) == (0.75, 4, 2, "runs")


def test_drawer_runs_are_right_for_embeddings_that_know_the_character() -> None:
    labels, alphabets, drawers = drawings()
    score = drawer_runs_score(one_hot(labels), labels, alphabets=alphabets, drawers=drawers, characters=5)
    assert (score.accuracy, score.trials, score.ways, score.protocol) == (1.0, 100, 5, "drawer_runs")


def test_drawer_runs_are_chance_for_embeddings_that_know_alphabet_and_drawer() -> None:
    labels, alphabets, drawers = drawings()
    embeddings = one_hot(alphabets * DRAWERS + drawers)
    score = drawer_runs_score(embeddings, labels, alphabets=alphabets, drawers=drawers, characters=5, runs=200)
    # Each run gives every answer once: one of five is right for sure.
    assert score.accuracy == pytest.approx(1 / 5)


def test_drawer_runs_leave_out_alphabets_without_two_drawers_of_the_same_characters() -> None:
    labels, alphabets, drawers = drawings()
    # In alphabet 0 each character is by one drawer; embeddings there would always be wrong.
    embeddings = one_hot(labels)
    lonely = alphabets == 0
    drawers = np.where(lonely, labels, drawers)
    embeddings[lonely] = embeddings[labels == 1][0]
    score = drawer_runs_score(embeddings, labels, alphabets=alphabets, drawers=drawers, characters=5, runs=6)
    assert (score.accuracy, score.trials) == (1.0, 30)
    with pytest.raises(
        ValueError, match=r"^no alphabet has 7 characters \(`characters`\) that two of its drawers drew\.$"
    ):
        drawer_runs_score(embeddings, labels, alphabets=alphabets, drawers=drawers, characters=7)


@pytest.mark.parametrize(
    ("protocol", "ways", "alphabets", "message"),
    [
        ("within_alphabet", 7, True, "no alphabet has 7 characters (`ways`) of two pictures or more."),
        ("unstructured", 19, True, "there are not 19 characters (`ways`) of two pictures or more."),
        ("within_alphabet", 5, False, "`alphabets` must be given for the protocol `within_alphabet`."),
        ("unstructured", 1, True, "`ways` (=1) must be at least 2 and `trials` (=10) at least 1."),
    ],
)
def test_trials_that_can_not_be_drawn_are_refused(protocol: Protocol, ways: int, alphabets: bool, message: str) -> None:
    labels, of_label, _ = drawings()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        one_shot_score(
            one_hot(labels), labels, protocol=protocol, alphabets=of_label if alphabets else None, ways=ways, trials=10
        )
