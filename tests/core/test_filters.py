import pytest

from twinsight_core.errors import InvalidInput
from twinsight_core.filters import AllOf, AnyOf, Equals, Exists, Filter, In, Not, Range, check_filter


def _nested(depth: int) -> Filter:
    inner: Filter = Exists("a")
    for _ in range(depth - 1):
        inner = Not(inner)
    return inner


@pytest.mark.parametrize(
    ("filter_", "field", "words"),
    [
        (_nested(17), "filter", "`filter` is nested over 16 levels deep."),
        (AnyOf((Exists("a"),) * 256), "filter", "`filter` has over 256 nodes."),
        (AnyOf((In("a", (1,) * 1000),) * 10 + (Equals("a", 1),)), "filter", "`filter` has over 10,000 values."),
        (AllOf(()), "filter.all_of.filters", "must have at least one filter."),
        (Not(AnyOf(())), "filter.not.any_of.filters", "must have at least one filter."),
        (Equals("", 1), "filter.condition.field", "(of 0 bytes) must be 1 to 128 bytes"),
        (AllOf((Exists("a"), Exists("\0"))), "filter.all_of.filters[1].condition.field", "control characters"),
        (Equals("a", float("nan")), "filter.condition.equals", "(=nan) must be finite"),
        (In("a", ()), "filter.condition.in", "has 0 values; it must have 1 to 1000."),
        (In("a", (1, 2**70)), "filter.condition.in.values[1]", "must fit in 64 bits"),
        (Range("a"), "filter.condition.range", "must have at least one bound."),
        (Range("a", gt=float("nan")), "filter.condition.range", "must not have NaN"),
        (Range("a", lte=2**63), "filter.condition.range", "must have integers of at most 64 bits"),
    ],
)
def test_filters_against_the_rules_are_refused(filter_: Filter, field: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_filter(filter_)
    assert words in refused.value.message
    assert (refused.value.reason, refused.value.field) == ("FILTER_INVALID", field)


@pytest.mark.parametrize("filter_", [_nested(16), AnyOf((Exists("a"),) * 255), Range("a", lt=float("inf"))])
def test_filters_at_the_limits_are_accepted(filter_: Filter) -> None:
    check_filter(filter_)
