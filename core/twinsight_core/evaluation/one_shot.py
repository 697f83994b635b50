"""One-shot classification: a picture of a character is classified from one example of each of N characters.

Source: Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program induction",
Science 2015 (20-way within an alphabet); Vinyals et al., "Matching Networks for One Shot
Learning", NeurIPS 2016 (characters of all alphabets alike).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from twinsight_core.evaluation.intervals import wilson_interval

Protocol = Literal["within_alphabet", "unstructured"]


@dataclass(frozen=True)
class OneShotScore:
    """How often the closest example is of the right character.

    Attributes:
        protocol: how the characters of a trial were chosen.
        ways: characters of a trial.
        accuracy: share of trials that were right, 0..1; by chance it is 1 / ways.
        low: lower end of its 95 % interval over other trials with the same pictures; with others it may differ by more.
        high: upper end of that interval.
        trials: number of trials.
    """

    protocol: Protocol
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


def _pools(
    embeddings: np.ndarray, labels: np.ndarray, alphabets: np.ndarray | None, *, protocol: Protocol, ways: int
) -> list[list[np.ndarray]]:
    """Returns the characters that may meet in a trial, each as the rows of its pictures: one list per alphabet."""
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
        # A character with one picture could only be an example.
        characters = [one for one in characters if len(one) > 1]
        if len(characters) >= ways:
            pools.append(characters)
    if not pools:
        where = "no alphabet has" if protocol == "within_alphabet" else "there are not"
        raise ValueError(f"{where} {ways} characters (`ways`) of two pictures or more.")
    return pools


def _score(protocol: Protocol, ways: int, right: int, trials: int) -> OneShotScore:
    low, high = wilson_interval(right, trials)
    return OneShotScore(protocol=protocol, ways=ways, accuracy=right / trials, low=low, high=high, trials=trials)


def _check_rows(name: str, values: np.ndarray, embeddings: np.ndarray) -> None:
    if embeddings.ndim != 2 or values.shape != embeddings.shape[:1]:
        raise ValueError(
            f"`embeddings` {embeddings.shape} must be [count, dimension] and `{name}` {values.shape} [count]."
        )
