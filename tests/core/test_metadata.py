import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinsight_core.errors import InvalidInput
from twinsight_core.metadata import Metadata, MetadataValue, check_metadata, decode_metadata, encode_metadata

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES: st.SearchStrategy[MetadataValue] = st.one_of(
    TEXT,
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.lists(TEXT, max_size=4).map(tuple),
)


@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_metadata_comes_back_from_disk_with_the_same_values_and_types(metadata: Metadata) -> None:
    decoded = decode_metadata(encode_metadata(metadata))
    assert decoded == metadata
    assert {name: type(value) for name, value in decoded.items()} == {n: type(v) for n, v in metadata.items()}


def test_the_form_on_disk_is_plain_json() -> None:
    encoded = encode_metadata({"a": 1, "b": 1.0, "c": True, "d": ("ü",)})
    assert encoded.decode() == '{"a":1,"b":1.0,"c":true,"d":["ü"]}'
    assert encode_metadata({}) == b"{}"


@pytest.mark.parametrize(
    ("metadata", "field", "words"),
    [
        ({str(i): 1 for i in range(65)}, "metadata", "has 65 fields; at most 64"),
        ({"": 1}, "metadata", "(of 0 bytes) must be 1 to 128 bytes"),
        ({"ü" * 65: 1}, "metadata", "(of 130 bytes) must be 1 to 128 bytes"),
        ({"a\nb": 1}, "metadata", "must not have control characters"),
        ({"\ud800": 1}, "metadata", "must be valid UTF-8"),
        ({"a": 2**63}, "metadata['a']", "must fit in 64 bits"),
        ({"a": math.nan}, "metadata['a']", "(=nan) must be finite"),
        ({"a": -math.inf}, "metadata['a']", "(=-inf) must be finite"),
        ({"a": "\udfff"}, "metadata['a']", "must be valid UTF-8"),
        ({"a": ["list"]}, "metadata['a']", "must be a string, an integer, a float, a bool or a tuple of strings"),
        ({"a": "x" * 65536}, "metadata", "is 65537 bytes of names and values; at most 65536"),
        ({"a": ("",) * 8192}, "metadata", "is 65537 bytes of names and values; at most 65536"),
    ],
)
def test_metadata_against_the_rules_is_refused(metadata: Metadata, field: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_metadata(metadata, field="metadata")
    assert words in refused.value.message
    assert (refused.value.reason, refused.value.field) == ("METADATA_INVALID", field)


def test_metadata_at_the_limits_is_accepted() -> None:
    check_metadata({f"{i:0128}": -(2**63) for i in range(64)}, field="metadata")
    check_metadata({"a": "x" * 65535}, field="metadata")
    check_metadata({"a": ("",) * 8191}, field="metadata")
    check_metadata({"tab in a value": "a\tb", "né e": ()}, field="metadata")
