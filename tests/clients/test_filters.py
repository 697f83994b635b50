"""Filters: built in Python, read from JSON, and what they mean."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinsight.v1 import types_pb2
from twinsight_client import Filter, InvalidArgument, field, filter_from_json
from twinsight_client.metadata import metadata_messages
from twinsight_client.results import MetadataValue
from twinsight_client.testing import FakeClient
from twinsight_client.testing.conditions import holds

pytestmark = pytest.mark.client

ACME: dict[str, MetadataValue] = {"brand": "acme", "year": 2005, "price": 9.5, "sold": True, "tags": ["red", "small"]}


def meets(condition: Filter) -> bool:
    return holds(condition.message, metadata_messages(ACME))


@pytest.mark.parametrize(
    ("built", "written"),
    [
        (field("brand") == "acme", {"brand": "acme"}),
        (field("brand").equals("acme"), {"brand": {"equals": "acme"}}),
        (field("brand") != "zenith", {"not": {"brand": "zenith"}}),
        (field("brand").is_in(["acme", "x"]), {"brand": ["acme", "x"]}),
        (field("brand").is_in(["acme", "x"]), {"brand": {"in": ["acme", "x"]}}),
        (field("year") >= 2000, {"year": {"gte": 2000}}),
        (field("year") > 2000, {"year": {"gt": 2000}}),
        (field("year") < 2010, {"year": {"lt": 2010}}),
        (field("year") <= 2005, {"year": {"lte": 2005}}),
        (field("year").between(2000, 2005), {"year": {"gte": 2000, "lte": 2005}}),
        (field("sold").exists(), {"sold": {"exists": True}}),
        (field("gone").is_missing(), {"gone": {"exists": False}}),
        ((field("sold") == True) & (field("tags") == "red"), {"sold": True, "tags": "red"}),  # noqa: E712
        (~(field("brand") == "x") & (field("price") < 10), {"not": {"brand": "x"}, "price": {"lt": 10}}),
        (
            (field("brand") == "x") | (field("year") == 2005.0),
            {"any_of": [{"brand": "x"}, {"year": 2005.0}]},
        ),
        (field("year").exists() & (field("year") > 1), {"all_of": [{"year": {"exists": True}}, {"year": {"gt": 1}}]}),
    ],
)
def test_python_and_json_build_the_same_filter_and_it_holds(built: Filter, written: dict[str, object]) -> None:
    assert built == filter_from_json(written)
    assert built == filter_from_json(json.dumps(written))
    assert meets(built)
    assert not meets(~built)


@pytest.mark.parametrize(
    "condition",
    [
        field("brand") == "Acme",
        field("year") == "2005",
        field("year") == True,  # noqa: E712
        field("sold") == 1,
        field("brand") > 3,
        field("tags") == "blue",
        field("gone") == "x",
        field("gone") < 1,
        (field("brand") == "acme") & (field("year") > 2005),
    ],
)
def test_other_values_types_and_missing_fields_do_not_hold(condition: Filter) -> None:
    assert not meets(condition)


def test_one_condition_is_this_message() -> None:
    condition = types_pb2.Condition(field="year", range=types_pb2.Range(gte=2000))
    assert (field("year") >= 2000).message == types_pb2.Filter(condition=condition)


@pytest.mark.parametrize("bound", [2**53 + 1, -(2**53) - 1, 1_700_000_000_000_000_001, 2**63 - 1])
def test_integers_that_no_float_holds_are_exact_bounds(bound: int) -> None:
    between = (field("t") > bound).message.condition.range
    assert between == types_pb2.Range(gt=float(bound), gt_integer=bound)
    for value in (bound - 1, bound, min(bound + 1, 2**63 - 1)):
        metadata = metadata_messages({"t": value})
        for condition, right in (
            (field("t") > bound, value > bound),
            (field("t") >= bound, value >= bound),
            (field("t") < bound, value < bound),
            (field("t") <= bound, value <= bound),
        ):
            assert holds(condition.message, metadata) == right


def test_a_bound_beyond_64_bits_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="must fit in 64 bits"):
        _ = field("t") > 2**63 + 1


def test_chains_of_the_same_word_stay_flat() -> None:
    chain = field("a").exists() & field("b").exists() & field("c").exists() & field("d").exists()
    assert len(chain.message.all_of.filters) == 4
    mixed = field("a").exists() | (field("b").exists() & field("c").exists()) | field("d").exists()
    assert [one.WhichOneof("kind") for one in mixed.message.any_of.filters] == ["condition", "all_of", "condition"]


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(-20, 20))
def test_between_is_what_two_comparisons_say(value: int, low: int, high: int) -> None:
    metadata = metadata_messages({"n": value})
    assert holds(field("n").between(low, high).message, metadata) == (low <= value <= high)
    assert holds(((field("n") >= low) & (field("n") <= high)).message, metadata) == (low <= value <= high)
    assert holds(((field("n") < low) | (field("n") > high)).message, metadata) == (not low <= value <= high)


def test_a_chained_comparison_is_refused_instead_of_losing_half() -> None:
    with pytest.raises(TypeError, match=r"combine filters with &, \| and ~, not with and, or, not or a < b < c"):
        _ = 2000 <= field("year") < 2010


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{", "The filter is not JSON: Expecting property name"),
        ("[1]", "A filter must be a JSON object, not [1]."),
        ("{}", "A filter must name at least one field."),
        ('{"a": null}', "`a` must be compared with a string, a number or true/false, not null."),
        ('{"a": {}}', "`a` takes the tests equals, in, exists, gt, gte, lt, lte; got none."),
        ('{"a": {"gte": 1, "above": 2}}', "`a` takes the tests equals, in, exists, gt, gte, lt, lte; got above."),
        ('{"a": {"gte": "x"}}', "`gte` on `a` ('x') must be a number."),
        ('{"a": {"gte": true}}', "`gte` on `a` (True) must be a number."),
        ('{"a": {"in": "x"}}', "`in` on `a` must be a list."),
        ('{"a": []}', "`is_in` on `a` must name at least one value."),
        ('{"a": {"exists": 1}}', "`exists` on `a` must be true or false."),
        ('{"any_of": {}}', "`any_of` must be a list of at least one filter."),
        ('{"a": 1, "b": 2, "a": 3}', "The filter has `a` twice in one object; combine them with all_of."),
        ('{"any_of": [{"year": {"gte": 1, "gte": 2}}]}', "The filter has `gte` twice in one object"),
        ('{"not": {"a": 1}, "not": {"b": 1}}', "The filter has `not` twice in one object"),
        ('{"not": 3}', "A filter must be a JSON object, not 3."),
        ('{"a": {"gte": 1' + "0" * 400 + "}}", "`gte` on `a` must fit in 64 bits."),
        ('{"a": 1' + "0" * 5000 + "}", "The filter is not JSON: Exceeds the limit"),
    ],
)
def test_a_json_filter_that_is_wrong_says_where(written: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        filter_from_json(written)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize(("opening", "closing"), [('{"not": ', "}"), ('{"all_of": [', "]}")])
@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_a_json_filter_that_is_nested_too_deeply_is_refused(opening: str, closing: str, depth: int) -> None:
    with pytest.raises(InvalidArgument, match=r"^The filter is nested too deeply\.$") as raised:
        filter_from_json(opening * depth + '{"a": 1}' + closing * depth)
    assert raised.value.field == "filter"


def test_a_lone_string_is_not_taken_apart_into_characters() -> None:
    with pytest.raises(TypeError, match="`is_in` on `brand` takes a list"):
        field("brand").is_in("acme")


def test_bounds_may_be_numpys() -> None:
    assert repr(field("n") >= np.int64(2**62 + 1)) == repr(field("n") >= 2**62 + 1)
    assert repr(field("n") < np.float32(0.5)) == repr(field("n") < 0.5)


def test_what_is_no_filter_is_told_how_to_become_one() -> None:
    client = FakeClient()
    wrong: Any = {"year": {"gte": 2000}}
    for asked in (
        lambda: client.search("c", [[1.0]], where=wrong),
        lambda: list(client.list_items("c", where=wrong)),
        lambda: client.delete_items("c", where=wrong),
    ):
        with pytest.raises(TypeError, match=r"^`where` must be a Filter, such as .*, not dict\.$"):
            asked()
