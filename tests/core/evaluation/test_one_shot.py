import re

import numpy as np
import pytest

from twinsight_core.evaluation.one_shot import Protocol, one_shot_score

PROTOCOLS: tuple[Protocol, ...] = ("within_alphabet", "unstructured")
ALPHABETS, CHARACTERS, DRAWERS = 3, 6, 4


def drawings() -> tuple[np.ndarray, np.ndarray]:
    """Labels and alphabets of 3 alphabets of 6 characters by 4 drawers each."""
    labels = np.repeat(np.arange(ALPHABETS * CHARACTERS), DRAWERS)
    return labels, labels // CHARACTERS


def one_hot(numbers: np.ndarray) -> np.ndarray:
    rows: np.ndarray = np.eye(int(numbers.max()) + 1, dtype=np.float32)[numbers]
    return rows


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_embeddings_that_know_the_character_are_always_right(protocol: Protocol) -> None:
    labels, alphabets = drawings()
    score = one_shot_score(one_hot(labels), labels, protocol=protocol, alphabets=alphabets, ways=5, trials=200)
    assert (score.accuracy, score.high, score.trials, score.ways) == (1.0, 1.0, 200, 5)
    assert score.low == pytest.approx(200 / (200 + 1.95996**2), abs=1e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_collapsed_embeddings_are_right_by_chance(protocol: Protocol) -> None:
    labels, alphabets = drawings()
    same = np.ones((len(labels), 2), np.float32)
    score = one_shot_score(same, labels, protocol=protocol, alphabets=alphabets, ways=5, trials=4000)
    assert score.low < 1 / 5 < score.high


def test_alphabets_that_differ_help_only_where_trials_mix_them() -> None:
    # Embeddings that know the alphabet alone: within one they say nothing.
    labels, alphabets = drawings()
    embeddings = one_hot(alphabets)
    within = one_shot_score(embeddings, labels, protocol="within_alphabet", alphabets=alphabets, ways=5, trials=2000)
    mixed = one_shot_score(embeddings, labels, protocol="unstructured", ways=5, trials=2000)
    assert within.low < 1 / 5 < within.high
    assert mixed.low > 0.4


def test_the_seed_alone_decides_the_trials() -> None:
    labels, alphabets = drawings()
    embeddings = np.random.default_rng(0).normal(size=(len(labels), 4)).astype(np.float32)

    def accuracy(seed: int) -> float:
        return one_shot_score(
            embeddings, labels, protocol="within_alphabet", alphabets=alphabets, ways=5, trials=300, seed=seed
        ).accuracy

    assert accuracy(1) == accuracy(1)
    assert len({accuracy(seed) for seed in range(5)}) > 1


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
    labels, of_label = drawings()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        one_shot_score(
            one_hot(labels), labels, protocol=protocol, alphabets=of_label if alphabets else None, ways=ways, trials=10
        )
