import math
from enum import StrEnum
from http import HTTPStatus
from itertools import pairwise

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twinsight_core.filters import AllOf, AnyOf, Equals, Exists, Filter, In, Not, Range
from twinsight_core.metadata import Metadata, MetadataValue
from twinsight_core.search.columns import Columns

FIELDS = st.sampled_from(["a", "b", "c"])
# Few values, among them those that are easily taken for one another.
VALUES: st.SearchStrategy[MetadataValue] = st.sampled_from(
    [
        *(0, 1, 1.0, True, False, -0.0, 0.5, 2**53, 2**53 + 1, float(2**53), -(2**63), 2.0**62, 2**62 + 1, 2.0**63),
        *("1", "x", "", (), ("x",), ("x", "y")),
    ]
)
BOUNDS = st.none() | st.sampled_from(
    [0.0, 1.0, 0.5, 1, float(2**53), 2**53 + 1, -(2**53) - 1, 2**62 + 1, -(2.0**63), 2**63 - 1, float("inf"), -math.inf]
)
CONDITIONS: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Equals, FIELDS, VALUES),
    st.builds(In, FIELDS, st.lists(VALUES, min_size=1, max_size=7).map(tuple)),
    st.builds(Range, FIELDS, BOUNDS, BOUNDS, BOUNDS, BOUNDS).filter(
        lambda one: any(bound is not None for bound in (one.gt, one.gte, one.lt, one.lte))
    ),
    st.builds(Exists, FIELDS, st.booleans()),
)
FILTERS: st.SearchStrategy[Filter] = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        st.builds(AllOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(AnyOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(Not, inner),
    ),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(FIELDS, VALUES, max_size=3), max_size=25)


def _kind(value: MetadataValue) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else type(value).__name__


def _equal(value: MetadataValue, wanted: MetadataValue) -> bool:
    if isinstance(value, tuple) and isinstance(wanted, str):
        return wanted in value
    return _kind(value) == _kind(wanted) and value == wanted


def _meets(filter_: Filter, item: Metadata) -> bool:  # noqa: PLR0911 - one for each kind
    """The filter's meaning, item by item."""
    if isinstance(filter_, AllOf):
        return all(_meets(one, item) for one in filter_.filters)
    if isinstance(filter_, AnyOf):
        return any(_meets(one, item) for one in filter_.filters)
    if isinstance(filter_, Not):
        return not _meets(filter_.filter, item)
    if isinstance(filter_, Exists):
        return (filter_.field in item) == filter_.exists
    if filter_.field not in item:
        return False
    value = item[filter_.field]
    if isinstance(filter_, Equals):
        return _equal(value, filter_.value)
    if isinstance(filter_, In):
        return any(_equal(value, one) for one in filter_.values)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return (
        (filter_.gt is None or value > filter_.gt)
        and (filter_.gte is None or value >= filter_.gte)
        and (filter_.lt is None or value < filter_.lt)
        and (filter_.lte is None or value <= filter_.lte)
    )


@settings(deadline=None, max_examples=300)
@given(rows=ROWS, cuts=st.lists(st.integers(0, 25)), filter_=FILTERS, data=st.data())
@example(rows=[{"a": 2**53 + 1}, {"a": 2**53}], cuts=[], filter_=Range("a", gt=2.0**53), data=None)
@example(rows=[{"a": 2.0**62}, {"a": 2**62}], cuts=[], filter_=Range("a", lt=2**62 + 1), data=None)
@example(rows=[{"a": 2**53}, {"a": 2.0**53}], cuts=[], filter_=Range("a", gte=2**53 + 1), data=None)
@example(rows=[{"a": 1}, {"a": True}, {"a": 1.0}, {"a": "1"}], cuts=[2], filter_=Equals("a", 1), data=None)
def test_masks_are_what_the_filter_means(
    rows: list[Metadata], cuts: list[int], filter_: Filter, data: st.DataObject | None
) -> None:
    columns = Columns()
    steps = sorted({0, *(cut for cut in cuts if cut < len(rows)), len(rows)})
    for first, last in pairwise(steps):
        columns.append(first, rows[first:last])
    expected = [_meets(filter_, item) for item in rows]
    assert columns.mask(filter_, len(rows)).tolist() == expected

    # Rows past the count are not looked at.
    assert columns.mask(filter_, len(rows) // 2).tolist() == expected[: len(rows) // 2]

    alive = np.array([data.draw(st.booleans()) if data else True for _ in rows], np.bool_)
    kept = [item for item, lives in zip(rows, alive, strict=True) if lives]
    compact = columns.compacted(alive)
    assert compact.mask(filter_, len(kept)).tolist() == [_meets(filter_, item) for item in kept]
    compact.append(len(kept), rows)
    assert compact.mask(filter_, len(kept) + len(rows))[len(kept) :].tolist() == expected

    # 1, 1.0 and True are equal to Python, and so are 0.0 and -0.0, but were not written alike.
    assert _written(columns.metadata(np.flatnonzero(alive))) == _written(kept)
    assert _written(compact.metadata(np.arange(0, len(kept), 2))) == _written(kept[::2])
    assert _written(compact.metadata(np.arange(len(kept) + len(rows)))) == _written([*kept, *rows])


def _written(metadata: list[Metadata]) -> list[str]:
    return [repr(sorted(fields.items())) for fields in metadata]


def test_what_a_row_has_among_many_fields_is_found() -> None:
    columns = Columns()
    columns.append(0, [{f"field{n}": n, "all": f"v{n}"} for n in range(300)])
    few, many = np.array([3, 4, 299]), np.arange(400)  # fewer rows than most fields have, and more
    assert columns.metadata(few) == [{f"field{n}": n, "all": f"v{n}"} for n in few.tolist()]
    assert columns.metadata(many)[:300] == [{f"field{n}": n, "all": f"v{n}"} for n in range(300)]
    assert columns.metadata(many)[300:] == [{}] * 100
    assert columns.metadata(many[:0]) == []
    assert columns.field_count == 301


class Colour(StrEnum):
    RED = "red"


def test_values_of_kinds_that_are_more_special_equal_plain_ones() -> None:
    columns = Columns()
    columns.append(0, [{"a": np.float64(1.0)}, {"a": Colour.RED}, {"a": HTTPStatus.OK}, {"a": True}])
    for value, expected in ((1.0, [0]), (1, [0]), ("red", [1]), (200, [2]), (True, [3])):
        assert np.flatnonzero(columns.mask(Equals("a", value), 4)).tolist() == expected


def test_a_filter_on_a_field_that_no_item_has_is_met_only_by_its_absence() -> None:
    columns = Columns()
    columns.append(0, [{"a": 1}, {}])
    assert columns.mask(Exists("z", exists=False), 2).tolist() == [True, True]
    assert columns.mask(Not(Equals("z", 1)), 2).tolist() == [True, True]
    assert columns.mask(Range("z", gt=0.0), 2).tolist() == [False, False]


def test_a_filter_may_be_evaluated_at_any_point_of_an_append() -> None:
    columns = Columns()
    columns.append(0, [{"a": (f"v{i}",)} for i in range(6)])
    many = In("a", (*(f"v{i}" for i in range(6)), "new"))
    masks: list[list[bool]] = []

    class Codes(list[int]):
        """The codes of a string; reads as soon as it has one more."""

        def append(self, code: int) -> None:
            super().append(code)
            masks.append(columns.mask(many, 7).tolist())

    columns._columns["a"]._lists_with["new"] = Codes()
    columns.append(6, [{"a": ("new",)}])
    assert masks == [[True] * 6 + [False]]
    assert columns.mask(many, 7).tolist() == [True] * 7


def test_many_values_are_looked_up_at_once() -> None:
    columns = Columns()
    columns.append(0, [{"a": f"n{i}"} for i in range(1000)])
    mask = columns.mask(In("a", tuple(f"n{i}" for i in range(0, 2000, 3))), 1000)
    assert np.flatnonzero(mask).tolist() == list(range(0, 1000, 3))
