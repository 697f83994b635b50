from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinsight_core.errors import TrainingError
from twinsight_core.training.pair_caveats import caveats, uncounted
from twinsight_core.training.pairs import PairList, deal, halves, one_identity, read_pairs, without

FILES = ("a/a_0001.jpg", "a/a_0002.jpg", "b/b_0001.jpg", "b/b_0003.jpg")


def listed(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pairs.txt"
    path.write_text(text, "utf-8")
    return path


def test_a_table_with_folds(tmp_path: Path) -> None:
    text = f"left,right,same,fold\n{FILES[0]},{FILES[1]},1,0\n{FILES[0]}, {FILES[2]} ,0,3\n"
    pairs = read_pairs(listed(tmp_path, text), FILES)
    assert pairs.files == FILES[:3]
    assert pairs.folds is not None
    assert [pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist(), pairs.folds.tolist()] == [
        [0, 0],
        [1, 2],
        [True, False],
        [0, 3],
    ]


def test_a_table_with_tabs_and_without_names_or_folds(tmp_path: Path) -> None:
    pairs = read_pairs(listed(tmp_path, f"{FILES[3]}\t{FILES[2]}\t1\n\n{FILES[1]}\t{FILES[2]}\t0\n"), FILES)
    assert (pairs.files, pairs.same.tolist(), pairs.folds) == (FILES[1:], [True, False], None)
    assert [pairs.left.tolist(), pairs.right.tolist()] == [[2, 0], [1, 1]]


def test_names_in_another_unicode_form_are_the_same(tmp_path: Path) -> None:
    apart, together = "cafe\u0301/1.png", "caf\xe9/1.png"
    text = f"{together},b.png,1\nb.png,{apart},1\n{apart},c.png,0\n"
    pairs = read_pairs(listed(tmp_path, text), (apart, "b.png", "c.png"))
    assert (pairs.files, pairs.repeats) == (("b.png", "c.png", apart), 1)
    both = read_pairs(listed(tmp_path, text), (apart, together, "b.png", "c.png"))
    assert (len(both.files), both.repeats) == (4, 0)


def test_a_head_may_be_in_capitals(tmp_path: Path) -> None:
    text = f"LEFT,RIGHT,SAME\n{FILES[0]},{FILES[1]},1\n{FILES[0]},{FILES[2]},0\n"
    assert read_pairs(listed(tmp_path, text), FILES).same.tolist() == [True, False]


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    for head in ("left,right,same\n", ""):
        text = f"\ufeff{head}{FILES[0]},{FILES[1]},1\n{FILES[0]},{FILES[2]},0\n"
        assert len(read_pairs(listed(tmp_path, text), FILES).same) == 2
    assert len(read_pairs(listed(tmp_path, "\ufeff1\t1\na\t1\t2\na\t1\tb\t3\n"), FILES).same) == 2


def test_a_pair_that_is_listed_again_counts_once(tmp_path: Path) -> None:
    text = (
        f"{FILES[0]},{FILES[1]},1,0\n{FILES[1]},{FILES[0]},1,1\n{FILES[0]},{FILES[2]},0,0\n"
        f"{FILES[0]},{FILES[1]},1,0\n{FILES[3]},{FILES[3]},1,1\n"
    )
    pairs = read_pairs(listed(tmp_path, text), FILES)
    assert pairs.folds is not None
    assert pairs.sides.tolist() == [[0, 1], [0, 2], [3, 3]]
    assert (pairs.same.tolist(), pairs.folds.tolist()) == ([True, False, True], [0, 0, 1])
    told = (
        " 2 lines list a pair again, or exact copies of its pictures, and are ignored: each pair counts once. 1 of the "
        "same pairs are a picture with itself or an exact copy, which any model recognises."
    )
    assert uncounted(pairs) == caveats(pairs, [np.arange(3)]) == told
    assert uncounted(without(pairs, [FILES[3]])) == told.partition(" 1 of")[0]


def test_the_list_of_lfw(tmp_path: Path) -> None:
    text = "2\t1\na\t1\t2\na\t1\tb\t3\nb\t1\t3\nb\t1\ta\t2\n"
    pairs = read_pairs(listed(tmp_path, text), FILES)
    assert pairs.folds is not None
    assert [pairs.left.tolist(), pairs.right.tolist()] == [[0, 0, 2, 2], [1, 3, 3, 1]]
    assert [pairs.same.tolist(), pairs.folds.tolist()] == [[True, False, True, False], [0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"the list is empty\.$"),
        (f"{FILES[0]},x.jpg,1\nmalformed\n", r"line 1: there is no picture `x\.jpg`; line 2: must be LEFT,RIGHT,"),
        (f"{FILES[0]},{FILES[1]},2\n", "line 1: must be LEFT,RIGHT,SAME"),
        (
            f"{FILES[0]},{FILES[1]},1\n{FILES[1]},{FILES[0]},0\n{FILES[2]},{FILES[2]},0\n",
            rf"pairs\.txt: line 2: contradicts line 1, which lists `{FILES[1]}` and `{FILES[0]}` as the same; "
            rf"line 3: `{FILES[2]}` can't be different from itself\.$",
        ),
        ("1\t1\na\t2\t1\na\t1\ta\t2\n", "line 3: contradicts line 2, which lists .* as the same"),
        ("1\t1\na\t1\n", "line 2: must be NAME, NUMBER, NUMBER or"),
        ("left,right,same\n", r"no pair in it\.$"),
        ("10\t0\na\t1\t2\n", r"line 1: the numbers of folds and of pairs \(=10\t0\) must be at least 1\.$"),
        (
            "2\t1\na\t1\t2\na\t1\tb\t3\nb\t1\ta\t2\n",
            r"txt: line 4: must be a same pair according to the first line \(=2\t1\), not a different one\.$",
        ),
        ("1\t2\na\t1\t2\n\na\t1\tb\t3\n", r"line 4: must be a same pair according to the first line \(=1\t2\), not"),
        ("1\na\t1\t2\nb\t1\t3\n", r"line 3: must be a different pair according to the first line \(=1\), not a same"),
        (
            "1\t1\na\t1\t2\na\t1\tb\t3\nb\t1\t3\n",
            r"txt: line 1: announces 2 pairs \(=1\t1\); there are 3\.$",
        ),
        ("2\t1\na\t1\t2\na\t1\tb\t3\n", r"line 1: announces 4 pairs \(=2\t1\); there are 2\.$"),
        (f"{FILES[0]},{FILES[1]},1\n", r"must have pairs of both kinds; all 1 are same, none are different\.$"),
        (f"{FILES[0]},{FILES[2]},0\n", r"must have pairs of both kinds; all 1 are different, none are same\.$"),
        (f"{'x' * 140_000},b,1\nmalformed\n", r"line 1: can't be read \(field larger than .*; line 2: must be"),
        (f"{FILES[0]},{FILES[1]},1,{'9' * 5000}\n", "line 1: must be LEFT,RIGHT,SAME"),
        (f"1\t1\na\t1\t{'9' * 5000}\n", "line 2: must be NAME, NUMBER, NUMBER or"),
        (f"{FILES[0]},{FILES[1]},1,1\n{FILES[0]},{FILES[2]},0\n", r"FOLD must be in every line or in none\.$"),
    ],
)
def test_a_list_that_breaks_a_rule_is_refused_line_by_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        read_pairs(listed(tmp_path, text), FILES)
    with pytest.raises(TrainingError, match="can't be read as text"):
        read_pairs(tmp_path / "none", FILES)


def pair_list(*pairs: tuple[str, str, bool], folds: list[int] | None = None) -> PairList:
    files = tuple(sorted({one for pair in pairs for one in pair[:2]}))
    return PairList(
        files=files,
        left=np.array([files.index(pair[0]) for pair in pairs]),
        right=np.array([files.index(pair[1]) for pair in pairs]),
        same=np.array([pair[2] for pair in pairs]),
        folds=None if folds is None else np.array(folds),
    )


def test_the_folds_are_halved_in_their_order() -> None:
    pairs = pair_list(
        *((f"{fold}/1.png", f"{fold}/{number}.png", number == 2) for fold in (7, 2, 9) for number in (2, 3)),
        folds=[7, 7, 2, 2, 9, 9],
    )
    first, second = halves(pairs, seed=0)
    assert first.tolist() == [True, True, True, True, False, False]
    assert second.tolist() == (~first).tolist()


def test_pictures_of_a_pair_and_of_a_folder_stay_together() -> None:
    pairs = pair_list(
        ("a/1.png", "a/2.png", True),
        ("a/3.png", "b/1.png", False),  # by its folder with the first
        ("c/1.png", "c/2.png", True),
        ("c/1.png", "d/1.png", False),
    )
    for seed in range(5):
        first, _ = halves(pairs, seed=seed)
        assert first.tolist() in ([True, True, False, False], [False, False, True, True])
    assert len({tuple(halves(pairs, seed=seed)[0].tolist()) for seed in range(9)}) == 2


@given(
    groups=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=12), seed=st.integers(0, 99)
)
def test_halves_share_no_picture_and_are_about_equal(groups: list[tuple[int, int]], seed: int) -> None:
    pairs = pair_list(
        *(
            (f"{group}/1.png", f"{group}/{'same' if same else 'other'}{number}.png", same)
            for group, counts in enumerate(groups)
            for same, count in zip((True, False), counts, strict=True)
            for number in range(count)
        )
    )
    first, second = halves(pairs, seed=seed)
    assert (first != second).all()
    sides = [set(pairs.left[half]) | set(pairs.right[half]) for half in (first, second)]
    assert not sides[0] & sides[1]
    for half in (first, second):
        assert 0 < pairs.same[half].sum() < half.sum()
    # Off by no more than the largest group in either kind.
    assert abs(int(first.sum()) - int(second.sum())) <= 2 * 8


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (
            pair_list(("a/1.png", "a/2.png", True), ("a/1.png", "b/1.png", False)),
            r"^The 2 pairs can't be split so that no picture is in two parts and each part has pairs of both kinds: "
            r"there would be 1 same and 1 different in the first half, 0 same and 0 different in the second half; "
            r"give a FOLD column by which they can\.$",
        ),
        (
            pair_list(("a/1.png", "a/2.png", True), ("c/1.png", "b/1.png", False)),
            r"there would be 1 same and 1 different in the first half, 0 same and 0 different in the second half; ",
        ),
        (
            pair_list(("a/1.png", "a/2.png", True), ("c/1.png", "b/1.png", False), folds=[0, 0]),
            r"^The list's FOLD column must name at least 2 folds, one for each part; it names 1\.$",
        ),
        (
            pair_list(
                ("a/1.png", "a/2.png", True),
                ("a/1.png", "b/1.png", False),
                ("c/1.png", "c/2.png", True),
                ("c/1.png", "b/1.png", False),
                folds=[0, 0, 1, 1],
            ),
            r"^The folds of the first half and those of the second half must not share pictures; 1 are in both, such "
            r"as b/1\.png\.$",
        ),
    ],
)
def test_a_list_that_has_no_such_halves_is_refused(pairs: PairList, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        halves(pairs, seed=0)


PARTS = {"training": 0.8, "validation": 0.1, "the scores": 0.1}


def dealt(pairs: PairList, shares: dict[str, float] = PARTS, *, seed: int = 0) -> list[list[int]]:
    """The rows of each part."""
    return [np.flatnonzero(part).tolist() for part in deal(pairs, shares, seed=seed, remedy="mend it").values()]


def clusters(count: int, *, folds: bool) -> PairList:
    """Each has a same and a different pair that share a picture, and a fold of its own."""
    return pair_list(
        *((f"{one}/1.png", f"{one}/{number}.png", number == 2) for one in range(count) for number in (2, 3)),
        folds=[one for one in range(count) for _ in range(2)] if folds else None,
    )


@pytest.mark.parametrize(
    ("count", "held_out", "sizes"),
    [(10, 0.1, [8, 1, 1]), (3, 0.1, [1, 1, 1]), (5, 0.1, [3, 1, 1]), (10, 0.2, [6, 2, 2]), (4, 0.45, [1, 1, 2])],
)
def test_folds_are_dealt_whole_and_in_their_order_each_part_gets_one(
    count: int, held_out: float, sizes: list[int]
) -> None:
    shares = {"training": 1 - 2 * held_out, "validation": held_out, "the scores": held_out}
    parts = dealt(clusters(count, folds=True), shares)
    assert [len(part) for part in parts] == [2 * size for size in sizes]
    assert [row for part in parts for row in part] == list(range(2 * count))


@pytest.mark.parametrize(
    ("count", "sizes"), [(10, [8, 1, 1]), (3, [1, 1, 1]), (5, [3, 1, 1]), (4, [2, 1, 1]), (30, [24, 3, 3])]
)
def test_linked_pairs_are_dealt_by_the_shares_and_each_part_gets_some(count: int, sizes: list[int]) -> None:
    for seed in range(3):
        parts = dealt(clusters(count, folds=False), seed=seed)
        assert [len(part) for part in parts] == [2 * size for size in sizes]


@given(
    groups=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=6, max_size=16), seed=st.integers(0, 99)
)
def test_parts_share_no_picture_hold_all_pairs_and_have_both_kinds(groups: list[tuple[int, int]], seed: int) -> None:
    pairs = pair_list(
        *(
            (f"{group}/1.png", f"{group}/{'same' if same else 'other'}{number}.png", same)
            for group, counts in enumerate(groups)
            for same, count in zip((True, False), counts, strict=True)
            for number in range(count)
        )
    )
    parts = dealt(pairs, seed=seed)
    assert sorted(row for part in parts for row in part) == list(range(len(pairs.same)))
    pictures = [set(pairs.left[part]) | set(pairs.right[part]) for part in parts]
    assert sum(len(one) for one in pictures) == len(pairs.files)
    assert all(0 < pairs.same[part].sum() < len(part) for part in parts)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (
            clusters(2, folds=True),
            r"^The list's FOLD column must name at least 3 folds, one for each part; it names 2\.$",
        ),
        (
            clusters(2, folds=False),
            r"^The 4 pairs can't be split .* 1 same and 1 different in training, 1 same and 1 different in validation, "
            r"0 same and 0 different in the scores; mend it\.$",
        ),
        (
            pair_list(
                *((f"{one}/1.png", f"{one}/{number}.png", number == 2) for one in range(3) for number in (2, 3)),
                ("0/1.png", "2/1.png", False),
                folds=[0, 0, 1, 1, 2, 2, 0],
            ),
            r"^The folds of training and those of the scores must not share pictures; 1 are in both, such as "
            r"2/1\.png\.$",
        ),
    ],
)
def test_a_list_that_can_not_be_dealt_is_refused(pairs: PairList, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        dealt(pairs)


def test_pairs_and_pictures_are_left_out_with_the_pictures_that_they_need() -> None:
    pairs = pair_list(
        ("a/1.png", "a/2.png", True), ("a/2.png", "b/1.png", False), ("c/1.png", "a/1.png", False), folds=[4, 5, 6]
    )
    left = without(pairs, ["b/1.png", "not in the list"])
    assert left.files == ("a/1.png", "a/2.png", "c/1.png")
    assert [left.left.tolist(), left.right.tolist(), left.same.tolist()] == [[0, 2], [1, 0], [True, False]]
    assert left.folds is not None
    assert left.folds.tolist() == [4, 6]
    assert without(pairs, pairs.files).files == ()


def drawn_at_random(identities: int, *, in_folders: bool, each: int = 4, different: int = 400) -> PairList:
    """All same pairs of each identity, and different pairs of any two; in one folder or one an identity."""
    rng = np.random.default_rng(0)
    names = [
        [f"{one}/{number}.png" if in_folders else f"{one}-{number}.png" for number in range(each)]
        for one in range(identities)
    ]
    pairs = [(of[0], other, True) for of in names for other in of[1:]]
    for _ in range(different):
        one, other = rng.choice(identities, 2, replace=False)
        pairs.append((names[one][rng.integers(each)], names[other][rng.integers(each)], False))
    return pair_list(*pairs)


@pytest.mark.parametrize("in_folders", [True, False])
def test_where_different_pairs_link_all_identities_stay_whole_and_pairs_between_parts_are_left_out(
    in_folders: bool,
) -> None:
    pairs = drawn_at_random(60, in_folders=in_folders)
    identities = np.array([int(file.replace("/", "-").partition("-")[0]) for file in pairs.files])
    for seed in range(3):
        parts = deal(pairs, PARTS, seed=seed, remedy="mend it")
        of_parts = [set(identities[pairs.left[part]]) | set(identities[pairs.right[part]]) for part in parts.values()]
        assert sum(len(one) for one in of_parts) == len(set.union(*of_parts)) == 60
        assert np.sum(list(parts.values()), axis=0).max() == 1
        left_out = ~np.any(list(parts.values()), axis=0)
        assert not pairs.same[left_out].any()
        # Dealt at random, about a hundredth of the different pairs would be in each of the small parts.
        kept = {name: int((~pairs.same[part]).sum()) for name, part in parts.items()}
        assert kept["training"] > 150
        assert min(kept.values()) >= 6
        assert dealt(pairs, seed=seed) == [np.flatnonzero(part).tolist() for part in parts.values()]


def test_what_is_left_out_and_what_can_not_be_checked_is_told() -> None:
    known = drawn_at_random(20, in_folders=True)
    assert caveats(known, [np.arange(len(known.same))]) == ""
    assert caveats(known, [np.arange(len(known.same) - 7)]) == (
        f" 7 different pairs of the list's {len(known.same)} pairs are left out: they link two parts."
    )
    unknown = drawn_at_random(20, in_folders=False)
    assert "whether one is in two parts can't be checked." in caveats(unknown, [np.arange(len(unknown.same))])
    assert caveats(clusters(3, folds=True), [np.arange(6)]) == ""


def test_identities_in_several_folds_are_counted() -> None:
    # Identity b has pairs in both folds, with other pictures in each.
    same = [("a/1.png", "a/2.png", True), ("b/1.png", "b/2.png", True), ("b/3.png", "b/4.png", True)]
    different = [("a/1.png", "b/1.png", False), ("b/3.png", "c/1.png", False)]
    pairs = pair_list(*same, *different, folds=[0, 0, 1, 0, 1])
    told = " 1 folders that are one identity each have pairs in several parts: identities are not held out, and on"
    assert caveats(pairs, [np.array([0, 1, 3]), np.array([2, 4])]).startswith(told)
    assert caveats(pairs, [np.arange(5)]) == ""


def test_same_pairs_of_two_folders_stay_together_whatever_else_is_linked() -> None:
    # Two cameras, a folder each: identity n is in both.
    pairs = pair_list(
        *((f"one/{n}.png", f"two/{n}.png", True) for n in range(12)),
        *((f"one/{n}.png", f"one/{(n + 1) % 12}.png", False) for n in range(12)),
        *((f"two/{n}.png", f"two/{(n + 1) % 12}.png", False) for n in range(12)),
    )
    first, second = halves(pairs, seed=0)
    assert not (first & second).any()
    assert (first | second)[:12].all()
    # A ring cut in two: of each camera two different pairs link the halves.
    assert [int(half[12:].sum()) for half in (first, second)] == [10, 10]


def test_originals_and_their_copies_in_two_folders_are_dealt_picture_by_picture() -> None:
    rng = np.random.default_rng(0)
    pairs = pair_list(
        *((f"originals/{n}.png", f"copies/{n}.png", True) for n in range(60)),
        *((f"originals/{n}.png", f"copies/{(n + rng.integers(1, 60)) % 60}.png", False) for n in range(60)),
    )
    first, second = halves(pairs, seed=0)
    assert (first | second)[:60].all()
    assert [int(half[60:].sum()) > 5 for half in (first, second)] == [True, True]
    pictures = [set(pairs.left[half]) | set(pairs.right[half]) for half in (first, second)]
    assert not pictures[0] & pictures[1]
    assert "or same and different ones between two: identities are known" in caveats(pairs, [np.arange(120)])


def test_exact_copies_under_other_names_are_in_one_part() -> None:
    # Each picture of a same pair is there twice; by their names the copies would be strangers.
    rows = [(f"{n}/1.png", f"{n}/2.png", True) for n in range(12)] + [
        (f"copy{n}/1.png", f"copy{n}/2.png", n % 2 == 0) for n in range(12)
    ]
    known = pair_list(*rows)
    originals = {file: known.files.index(file.removeprefix("copy")) for file in known.files}
    pairs = replace(known, firsts=np.array([originals[file] for file in known.files]))
    first, second = halves(pairs, seed=0)
    halved = [{int(pairs.originals[one]) for one in pairs.sides[half].ravel().tolist()} for half in (first, second)]
    assert halved[0]
    assert halved[1]
    assert not halved[0] & halved[1]
    by_names = halves(known, seed=0)
    apart = [{int(pairs.originals[one]) for one in pairs.sides[half].ravel().tolist()} for half in by_names]
    assert apart[0] & apart[1]


def test_exact_copies_in_several_folds_are_counted_and_the_folds_stay() -> None:
    # As in the list of LFW, whose folds are the protocol.
    rows = [(f"{n}/1.png", f"{n}/{side}.png", side == 2) for n in range(3) for side in (2, 3)]
    known = pair_list(*rows, folds=[0, 0, 1, 1, 2, 2])
    firsts = np.arange(len(known.files))
    firsts[known.files.index("2/1.png")] = known.files.index("0/1.png")
    pairs = replace(known, firsts=firsts)
    parts = [np.flatnonzero(half) for half in halves(pairs, seed=0)]
    assert caveats(pairs, parts) == " 1 pictures are in several parts, as exact copies under other names."


def test_pairs_of_exact_copies_are_told_by_what_they_are_said_to_be() -> None:
    known = pair_list(("a/1.png", "b/1.png", True), ("a/1.png", "c/1.png", False), ("a/1.png", "d/1.png", False))
    told = uncounted(replace(known, firsts=np.array([0, 0, 0, 3])))
    assert told == (
        " 1 of the same pairs are a picture with itself or an exact copy, which any model recognises. 1 of the "
        "different pairs are a picture and an exact copy of it, and labelled wrongly."
    )


def test_what_pairs_without_a_picture_say_of_folders_still_holds() -> None:
    # Pictures of b are different: it is not one identity, even if none of those pairs is left.
    pairs = PairList(
        files=("a/1", "a/2", "b/1", "b/2", "b/3"),
        left=np.array([0, 2, 0]),
        right=np.array([3, 4, 1]),
        same=np.array([False, False, True]),
        folds=None,
    )
    fewer = without(pairs, ["b/3"])
    assert fewer.files == ("a/1", "a/2", "b/2")
    assert one_identity(fewer) == one_identity(pairs) == {PurePosixPath("a")}
