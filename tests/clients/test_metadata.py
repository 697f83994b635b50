"""Metadata values, there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinsight.v1 import types_pb2
from twinsight_client import InvalidArgument
from twinsight_client.metadata import metadata_messages, metadata_values, value_message

pytestmark = pytest.mark.client

TEXT = st.text(st.characters(codec="utf-8"))
VALUES = st.one_of(
    TEXT,
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.lists(TEXT).map(tuple),
)


@given(st.dictionaries(TEXT, VALUES))
def test_every_value_comes_back_with_its_type(metadata: dict[str, object]) -> None:
    back = metadata_values(metadata_messages(metadata))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert back == metadata
    assert {name: type(value) for name, value in back.items()} == {
        name: type(value) for name, value in metadata.items()
    }


def test_true_is_a_bool_and_not_the_integer_one() -> None:
    assert value_message(True) == types_pb2.Value(bool_value=True)
    assert value_message(1) == types_pb2.Value(integer_value=1)
    assert value_message(1.0) == types_pb2.Value(float_value=1.0)


@pytest.mark.parametrize("value", [None, b"bytes", {"a": 1}, object()])
def test_types_that_metadata_can_not_hold_are_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidArgument) as raised:
        metadata_messages({"year": value})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    assert str(raised.value) == (
        f"Metadata `year` must be str, int, float, bool or a list of str, not {type(value).__name__}."
    )
    assert raised.value.field == "metadata['year']"


def test_integers_beyond_sixty_four_bits_are_refused() -> None:
    with pytest.raises(
        InvalidArgument, match=r"^Metadata `n` \(9223372036854775808\) must fit a signed 64-bit integer"
    ):
        value_message(2**63, name="n")


def test_kinds_that_this_client_does_not_know_are_left_out() -> None:
    assert metadata_values({"new": types_pb2.Value(), "a": types_pb2.Value(string_value="b")}) == {"a": "b"}


@pytest.mark.parametrize(
    ("given", "plain"),
    [(np.int64(3), 3), (np.uint8(3), 3), (np.float32(0.5), 0.5), (np.float64(0.5), 0.5), (np.bool_(True), True)],
)
def test_numpys_scalars_are_what_they_hold(given: np.generic, plain: float) -> None:
    message = value_message(given)  # type: ignore[arg-type]
    assert message == value_message(plain)
    assert type(metadata_values({"a": message})["a"]) is type(plain)


def test_a_list_of_what_is_no_text_is_named_by_what_it_holds() -> None:
    with pytest.raises(InvalidArgument, match=r"not a list of int\."):
        value_message([1, 2], name="a")  # type: ignore[list-item]
