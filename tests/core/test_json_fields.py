import re
from dataclasses import dataclass, field

import pytest

from twinsight_core.json_fields import OPTIONAL, JsonFields


def test_fields_are_read_by_their_types() -> None:
    fields = JsonFields(
        {"name": "cat", "count": 3, "share": 1, "inner": {"x": 0.5}, "none": None, "words": ["a"], "fit": "crop"}
    )
    assert fields.text("name") == "cat"
    assert fields.integer("count", least=0, most=3) == 3
    assert fields.number("share") == 1.0
    assert fields.object("inner", ["x"]).numbers() == {"x": 0.5}
    assert fields.optional_object("none") is None
    assert fields.texts("words") == ("a",)
    assert fields.choice("fit", ("crop", "pad")) == "crop"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": {"x": 1}}, "`a.y` is missing."),
        ({"a": {"x": 1, "y": 2, "z": 3}}, "`a.z` is unknown."),
        ({"a": [1]}, "`a` must be an object."),
        ({"a": {"x": True, "y": 2}}, "`a.x` (=True) must be an integer in 0..9."),
        ({"a": {"x": 10, "y": 2}}, "`a.x` (=10) must be an integer in 0..9."),
        ({"a": {"x": 1, "y": float("nan")}}, "`a.y` (=nan) must be a finite number."),
        ({"a": {"x": 1, "y": True}}, "`a.y` (=True) must be a finite number."),
        ({"a": {"x": 1, "y": 10**400}}, f"`a.y` (=1{'0' * 79}) must be a finite number."),
    ],
)
def test_a_wrong_field_is_named_by_its_path(values: dict[str, object], message: str) -> None:
    def read() -> tuple[int, float]:
        inner = JsonFields(values, names=["a"]).object("a", ["x", "y"])
        return inner.integer("x", least=0, most=9), inner.number("y")

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read()


def test_half_of_a_surrogate_pair_is_no_text() -> None:
    half = "a\ud800"
    rule = r"must be Unicode text without unpaired surrogates\.$"
    with pytest.raises(ValueError, match=rf"^`a` \(='a\\ud800'\) {rule}"):
        JsonFields({"a": half}).text("a")
    with pytest.raises(ValueError, match=rf"^`a\[1\]` \(='a\\ud800'\) {rule}"):
        JsonFields({"a": ["b", half]}).texts("a")
    with pytest.raises(ValueError, match=rf"^the name of a field of `a` \(='a\\ud800'\) {rule}"):
        JsonFields({"a": {half: 1}}).object("a")
    assert JsonFields({"a": "\U0001f600"}).text("a") == "\U0001f600"


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ValueError, match="must be a string") as caught:
        JsonFields({"a": list(range(10_000))}).text("a")
    assert len(str(caught.value)) < 200


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0
    name: str = field(default="", metadata=OPTIONAL)


def test_only_fields_that_are_marked_so_may_be_missing() -> None:
    assert "name" not in JsonFields({"x": 1, "y": 2}, names=Point.__dataclass_fields__)
    assert "name" in JsonFields({"x": 1, "y": 2, "name": "a"}, names=Point.__dataclass_fields__)
    # A default alone makes no field optional.
    with pytest.raises(ValueError, match=r"^`y` is missing\.$"):
        JsonFields({"x": 1}, names=Point.__dataclass_fields__)
    with pytest.raises(ValueError, match=r"^`z` is unknown\.$"):
        JsonFields({"x": 1, "y": 2, "z": 3}, names=Point.__dataclass_fields__)


def test_a_list_of_objects_names_the_wrong_one() -> None:
    fields = JsonFields({"points": [{"x": 1}, {"x": "a"}], "none": {}})
    points = fields.objects("points", ["x"])
    assert points[0].integer("x", least=0, most=1) == 1
    with pytest.raises(ValueError, match=r"^`points\[1\]\.x` \(='a'\) must be an integer in 0\.\.1\.$"):
        points[1].integer("x", least=0, most=1)
    with pytest.raises(ValueError, match=r"^`points\[0\]\.y` is missing\.$"):
        fields.objects("points", ["x", "y"])
    with pytest.raises(ValueError, match=r"^`none` \(=\{\}\) must be a list of objects\.$"):
        fields.objects("none")
