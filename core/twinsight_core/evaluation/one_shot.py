"""One-shot classification: a picture of a character is named from one example of each of N characters.

Source: Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program induction",
Science 2015 (20-way within an alphabet, 20 runs of two drawers); Vinyals et al., "Matching Networks for One Shot
Learning", NeurIPS 2016 (characters of all alphabets alike).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from twinsight_core.evaluation.intervals import wilson_interval

Protocol = Literal["within_alphabet", "unstructured"]

RUNS = 20
RUN_CHARACTERS = 20
# Draws of two drawers before an alphabet is given up on.
_DRAWS = 100


@dataclass(frozen=True)
class OneShotScore:
    """How often the closest example is of the right character.

    Attributes:
        protocol: how the characters of a trial were chosen.
        ways: characters of a trial.
        accuracy: share of trials that were right, 0..1; by chance it is 1 / ways.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
        trials: pictures that were named.
    """

    protocol: str
    ways: int
    accuracy: float
    low: float
    high: float
    trials: int


def one_shot_score(
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    protocol: Protocol,
    alphabets: np.ndarray | None = None,
    ways: int = 20,
    trials: int = 10_000,
    seed: int = 0,
) -> OneShotScore:
    """Returns the accuracy over independent N-way one-shot trials.

    A trial draws `ways` characters, one example of each, and another picture of one of them; the answer is the
    character of the example with the highest cosine.

    Args:
        embeddings: [count, dimension] float32, unit vectors.
        labels: [count] integer, character of each picture.
        protocol: "within_alphabet" draws an alphabet, then its characters; "unstructured" draws from all characters.
        alphabets: [count] integer, alphabet of each picture; needed for "within_alphabet" only.
        ways: characters of a trial, at least 2.
        trials: number of trials, at least 1.
        seed: of all draws.

    Raises:
        ValueError: a value breaks its rule, or no alphabet has enough characters.
    """
    if ways < 2 or trials < 1:
        raise ValueError(f"`ways` (={ways}) must be at least 2 and `trials` (={trials}) at least 1.")
    pools = _pools(embeddings, labels, alphabets, protocol=protocol, ways=ways)
    rng = np.random.default_rng(seed)
    right = 0
    for _ in range(trials):
        characters = pools[int(rng.integers(len(pools)))]
        drawn = [characters[int(number)] for number in rng.choice(len(characters), ways, replace=False)]
        answer = int(rng.integers(ways))
        query, example = rng.choice(drawn[answer], 2, replace=False)
        examples = [int(rows[int(rng.integers(len(rows)))]) for rows in drawn]
        examples[answer] = int(example)
        right += int(np.argmax(embeddings[examples] @ embeddings[query])) == answer
    return _score(protocol, ways, right, trials)


def runs_score(references: np.ndarray, tests: np.ndarray, answers: np.ndarray) -> OneShotScore:
    """Returns the accuracy over given runs, such as the 20 that come with Omniglot.

    Args:
        references: [runs, ways, dimension] float32, unit vectors of one example a character.
        tests: [runs, tests, dimension] float32, unit vectors of the pictures to be named.
        answers: [runs, tests] integer, number of the right reference in the run.

    Raises:
        ValueError: shapes differ or there is no run.
    """
    if references.ndim != 3 or tests.ndim != 3 or answers.shape != tests.shape[:2] or not answers.size:
        raise ValueError(
            f"`references` {references.shape}, `tests` {tests.shape} and `answers` {answers.shape} must be "
            "[runs, ways, dimension], [runs, tests, dimension] and [runs, tests], at least one."
        )
    named = np.argmax(np.einsum("rtd,rwd->rtw", tests, references), axis=2)
    return _score("runs", references.shape[1], int((named == answers).sum()), answers.size)


def drawer_runs_score(
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    alphabets: np.ndarray,
    drawers: np.ndarray,
    runs: int = RUNS,
    characters: int = RUN_CHARACTERS,
    seed: int = 0,
) -> OneShotScore:
    """Returns the accuracy over runs in the manner of Omniglot's own 20.

    A run takes one alphabet, by turns, two of its drawers and 20 of its characters that both drew; each picture of the
    second drawer is named from the 20 of the first.

    Args:
        embeddings: [count, dimension] float32, unit vectors.
        labels: [count] integer, character of each picture.
        alphabets: [count] integer, alphabet of each picture.
        drawers: [count] integer, who drew each picture, the same number for the same person within an alphabet.
        runs: number of runs.
        characters: characters of a run, at least 2.
        seed: of all draws.

    Raises:
        ValueError: shapes differ, a value breaks its rule, or no alphabet has two drawers of enough characters.
    """
    for name, values in (("labels", labels), ("alphabets", alphabets), ("drawers", drawers)):
        _check_rows(name, values, embeddings)
    if characters < 2 or runs < 1:
        raise ValueError(f"`characters` (={characters}) must be at least 2 and `runs` (={runs}) at least 1.")
    rng = np.random.default_rng(seed)
    usable = [one for one in map(int, np.unique(alphabets)) if len(np.unique(labels[alphabets == one])) >= characters]
    order = [usable[int(number)] for number in rng.permutation(len(usable))]
    references: list[np.ndarray] = []
    tests: list[np.ndarray] = []
    answers: list[np.ndarray] = []
    while len(references) < runs:
        if not order:
            raise ValueError(f"no alphabet has {characters} characters (`characters`) that two of its drawers drew.")
        alphabet = order.pop(0)
        pair = _two_drawers(np.flatnonzero(alphabets == alphabet), labels, drawers, characters, rng)
        if pair is None:
            continue
        order.append(alphabet)
        mixed = rng.permutation(characters)
        references.append(embeddings[pair[0]])
        tests.append(embeddings[pair[1][mixed]])
        answers.append(mixed)
    score = runs_score(np.stack(references), np.stack(tests), np.stack(answers))
    return OneShotScore("drawer_runs", score.ways, score.accuracy, score.low, score.high, score.trials)


def _pools(
    embeddings: np.ndarray, labels: np.ndarray, alphabets: np.ndarray | None, *, protocol: Protocol, ways: int
) -> list[list[np.ndarray]]:
    """Returns the characters that may meet in a trial, each as the rows of its pictures: one list an alphabet."""
    _check_rows("labels", labels, embeddings)
    if protocol == "within_alphabet":
        if alphabets is None:
            raise ValueError("`alphabets` must be given for the protocol `within_alphabet`.")
        _check_rows("alphabets", alphabets, embeddings)
        groups = [np.flatnonzero(alphabets == one) for one in np.unique(alphabets)]
    elif protocol == "unstructured":
        groups = [np.arange(len(labels))]
    else:
        raise ValueError(f"`protocol` (={protocol}) must be one of `within_alphabet`, `unstructured`.")
    pools = []
    for rows in groups:
        characters = [rows[labels[rows] == label] for label in np.unique(labels[rows])]
        # A character of one picture could be an example only.
        characters = [one for one in characters if len(one) > 1]
        if len(characters) >= ways:
            pools.append(characters)
    if not pools:
        where = "no alphabet has" if protocol == "within_alphabet" else "there are not"
        raise ValueError(f"{where} {ways} characters (`ways`) of two pictures or more.")
    return pools


def _two_drawers(
    rows: np.ndarray, labels: np.ndarray, drawers: np.ndarray, characters: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the rows of the same characters by two drawers; None where no two share enough."""
    people = np.unique(drawers[rows])
    for _ in range(_DRAWS if len(people) > 1 else 0):
        first, second = rng.choice(people, 2, replace=False)
        by_first, by_second = rows[drawers[rows] == first], rows[drawers[rows] == second]
        shared = np.intersect1d(labels[by_first], labels[by_second])
        if len(shared) >= characters:
            drawn = rng.choice(shared, characters, replace=False)
            return _of_characters(by_first, labels, drawn), _of_characters(by_second, labels, drawn)
    return None


def _of_characters(rows: np.ndarray, labels: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Returns one row a character: the first, where a drawer drew it more than once."""
    return np.array([rows[labels[rows] == label][0] for label in drawn])


def _score(protocol: str, ways: int, right: int, trials: int) -> OneShotScore:
    low, high = wilson_interval(right, trials)
    return OneShotScore(protocol=protocol, ways=ways, accuracy=right / trials, low=low, high=high, trials=trials)


def _check_rows(name: str, values: np.ndarray, embeddings: np.ndarray) -> None:
    if embeddings.ndim != 2 or values.shape != embeddings.shape[:1]:
        raise ValueError(
            f"`embeddings` {embeddings.shape} must be [count, dimension] and `{name}` {values.shape} [count]."
        )
