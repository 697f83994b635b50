"""Results: many answers, in order."""

from __future__ import annotations

import pytest

from twinsight_client import CallInfo, ItemError, NotFound, Results

pytestmark = pytest.mark.client

ERROR = ItemError(1, "NOT_FOUND", "ITEM_NOT_FOUND", "Item `b` does not exist.", "ids[1]")


def test_values_are_all_there_or_the_first_error_is_raised() -> None:
    assert Results(["a", "b"]).values() == ["a", "b"]
    with pytest.raises(NotFound, match=r"^Item `b` does not exist\.$") as raised:
        Results(["a", ERROR, "c"], call=CallInfo(request_id="r7")).values()
    assert raised.value.request_id == "r7"
    assert raised.value.field == "ids[1]"


def test_errors_and_successes_part_what_values_would_refuse() -> None:
    results = Results(["a", ERROR, "c"])
    assert results.errors() == [ERROR]
    assert results.successes() == ["a", "c"]


def test_results_are_a_sequence_in_the_requests_order() -> None:
    results = Results(["a", ERROR, "c"])
    assert len(results) == 3
    assert results[1] is ERROR
    assert results[::2] == ("a", "c")
    assert list(results) == ["a", ERROR, "c"]
    assert repr(Results(["a"])) == "Results(['a'])"
