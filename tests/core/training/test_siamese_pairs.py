import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.errors import TrainingError
from twinsight_core.evaluation.verification import area_under, roc_curve
from twinsight_core.images import Preprocessing
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.first_weights import drawn
from twinsight_core.models.siamese import SiameseNetwork
from twinsight_core.training.augment import PRESETS
from twinsight_core.training.evaluate import embedder
from twinsight_core.training.loop import LoopConfig
from twinsight_core.training.siamese_pairs import (
    PairPictures,
    PairSampler,
    PairTraining,
    read_pair_pictures,
    split,
    train_on_pairs,
)

SIZE = Preprocessing(height_px=16, width_px=16)
NETWORK = SiameseConfig(
    backbone=ResNetConfig(depths=(1,), widths=(4,), stem="small"), dimension=8, pooling="flatten", map_px=16
)
HOW = PairTraining(
    batch=16,
    margin=1.0,
    validation=0.25,
    test=0.25,
    augmentation=PRESETS["none"],
    loop=LoopConfig(steps=40, learning_rate=1e-2, warmup_steps=5, checkpoint_every=10),
)


def write_pairs(path: Path, *, classes: int, pictures: int) -> None:
    """Writes pairs of classes two by two: all pictures in a ring, and each with one of the other class."""
    lines = []
    for first in range(0, classes, 2):
        one, other = f"class{first:02}", f"class{first + 1:02}"
        for number in range(pictures):
            lines.append(f"{one}/{number}.png,{other}/{number}.png,0")
            lines += [f"{name}/{number}.png,{name}/{(number + 1) % pictures}.png,1" for name in (one, other)]
    path.write_text("\n".join(lines), "utf-8")


@pytest.fixture(scope="module")
def folder(write_drawings: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `set.zip` with the pictures and `pairs.csv` with 96 same and 48 different pairs of them."""
    path = tmp_path_factory.mktemp("data")
    write_drawings(path / "set.zip", groups=1, classes=24, pictures=4)
    write_pairs(path / "pairs.csv", classes=24, pictures=4)
    return path


@pytest.fixture(scope="module")
def pictures(folder: Path) -> PairPictures:
    return read_pair_pictures(folder / "set.zip", folder / "pairs.csv", preprocessing=SIZE)


def auc(network: SiameseNetwork, pictures: PairPictures, rows: np.ndarray) -> float:
    embeddings = embedder(network)(pictures.images[pictures.needed(rows)])
    return area_under(roc_curve(pictures.scored(embeddings, rows)))


def test_the_parts_share_no_picture_and_no_class(pictures: PairPictures) -> None:
    parts = split(pictures.pairs, HOW)
    rows = (parts.train, parts.validation, parts.test)
    assert [len(one) for one in rows] == [72, 36, 36]
    classes = [{pictures.pairs.files[number].partition("/")[0] for number in pictures.needed(one)} for one in rows]
    assert [len(one) for one in classes] == [12, 6, 6]
    assert len(set.union(*classes)) == 24


def test_the_same_pairs_are_held_out_whatever_the_seed(pictures: PairPictures) -> None:
    other = replace(HOW, loop=replace(HOW.loop, seed=7))
    np.testing.assert_array_equal(split(pictures.pairs, HOW).test, split(pictures.pairs, other).test)


def test_of_pairs_that_all_hang_together_some_different_ones_are_left_out(folder: Path, tmp_path: Path) -> None:
    chain = "".join(f"class{number:02}/0.png,class{number + 1:02}/1.png,0\n" for number in range(23))
    (tmp_path / "pairs.csv").write_text((folder / "pairs.csv").read_text() + "\n" + chain)
    read = read_pair_pictures(folder / "set.zip", tmp_path / "pairs.csv", preprocessing=SIZE)
    parts = split(read.pairs, HOW)
    rows = (parts.train, parts.validation, parts.test)
    classes = [{read.pairs.files[number].partition("/")[0] for number in read.needed(one)} for one in rows]
    assert sum(len(one) for one in classes) == len(set.union(*classes)) == 24
    left_out = np.setdiff1d(np.arange(167), np.concatenate(rows))
    assert 0 < len(left_out) < 23
    assert not read.pairs.same[left_out].any()


def test_pairs_that_hang_together_by_two_pictures_are_refused_with_their_counts(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(
        "class00/0.png,class00/1.png,1\nclass01/0.png,class01/1.png,1\nclass00/0.png,class01/0.png,0\n"
    )
    read = read_pair_pictures(folder / "set.zip", tmp_path / "pairs.csv", preprocessing=SIZE)
    with pytest.raises(
        TrainingError,
        match=r"^The 3 pairs can't be split .* 2 same and 1 different in training, 0 same and 0 different in "
        r"validation, .*; hold out more \(`held-out`\), leave out pairs that link too many",
    ):
        split(read.pairs, HOW)


def test_pictures_of_a_list_need_no_folders(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    with zipfile.ZipFile(folder / "set.zip") as archive:
        for name in archive.namelist():
            (tmp_path / "flat" / name.replace("/", "-")).write_bytes(archive.read(name))
    (tmp_path / "pairs.csv").write_text((folder / "pairs.csv").read_text().replace("/", "-"))
    read = read_pair_pictures(tmp_path / "flat", tmp_path / "pairs.csv", preprocessing=SIZE)
    of_folders = read_pair_pictures(folder / "set.zip", folder / "pairs.csv", preprocessing=SIZE)
    np.testing.assert_array_equal(read.images, of_folders.images)
    # Of what is linked nothing is parted, and all is dealt.
    parts = split(read.pairs, HOW)
    assert [len(one) for one in (parts.train, parts.validation, parts.test)] == [72, 36, 36]


def test_a_batch_holds_training_pairs_half_of_them_same(pictures: PairPictures) -> None:
    parts = split(pictures.pairs, HOW)
    sampler, pairs = PairSampler(pictures, parts.train, HOW), pictures.pairs
    known = {
        (pictures.images[pairs.left[row]].tobytes(), pictures.images[pairs.right[row]].tobytes(), bool(pairs.same[row]))
        for row in parts.train
    }
    for step in range(5):
        batch = sampler.batch(step)
        assert batch.left.shape == batch.right.shape == (16, 16, 16, 3)
        assert (len(batch.same), batch.same.sum()) == (16, 8)
        drawn = [
            (left.tobytes(), right.tobytes(), bool(same))
            for left, right, same in zip(batch.left, batch.right, batch.same, strict=True)
        ]
        assert set(drawn) <= known
        assert len(set(drawn)) == 16


def test_a_batch_is_the_same_for_a_step_and_another_for_the_next(pictures: PairPictures) -> None:
    rows = split(pictures.pairs, HOW).train
    batch, again = (PairSampler(pictures, rows, HOW).batch(3) for _ in range(2))
    np.testing.assert_array_equal(batch.left, again.left)
    np.testing.assert_array_equal(batch.right, again.right)
    assert (batch.left != PairSampler(pictures, rows, HOW).batch(4).left).any()


def test_a_kind_of_few_pairs_is_drawn_from_again(pictures: PairPictures) -> None:
    rows = np.concatenate([np.flatnonzero(pictures.pairs.same)[:2], np.flatnonzero(~pictures.pairs.same)])
    batch = PairSampler(pictures, rows, replace(HOW, batch=9)).batch(0)
    assert batch.same.tolist() == [True] * 4 + [False] * 5


def test_a_batch_of_one_pair_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^`batch` \(=1\) must be at least 2\.$"):
        PairTraining(batch=1)


def test_cosines_are_of_the_two_pictures_of_each_pair(pictures: PairPictures) -> None:
    rows = np.array([5, 0])
    pairs = pictures.pairs
    every = np.random.default_rng(0).normal(size=(len(pairs.files), 3))
    scored = pictures.scored(every[pictures.needed(rows)], rows)
    by_hand = [float(every[pairs.left[row]] @ every[pairs.right[row]]) for row in rows]
    np.testing.assert_allclose(scored.cosine, by_hand)
    assert scored.same.tolist() == [True, False]


def test_training_tells_pairs_apart_that_it_never_saw(pictures: PairPictures, tmp_path: Path) -> None:
    scores: dict[int, float] = {}

    class Scores:
        def on_start(self, step: int, steps: int) -> None:
            pass

        def on_steps(self, step: int, losses: dict[str, float]) -> None:
            pass

        def on_score(self, step: int, score: float) -> None:
            scores[step] = score

        def on_early_end(self, step: int, best_step: int) -> None:
            pass

    first = drawn(partial(SiameseNetwork, config=NETWORK), seed=0)
    trained, parts, ended = train_on_pairs(first, pictures, HOW, checkpoints=tmp_path, watchers=(Scores(),))
    first.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    before, after = (auc(network, pictures, parts.test) for network in (first, trained))
    assert after > max(0.85, before + 0.1)
    # The weights that are kept are those that validation pairs chose.
    assert ended.score == pytest.approx(max(scores.values()))
    assert auc(trained, pictures, parts.validation) == pytest.approx(max(scores.values()), abs=1e-6)


def test_another_truth_or_order_of_the_pairs_has_another_digest(pictures: PairPictures) -> None:
    pairs = pictures.pairs
    turned = replace(pairs, same=~pairs.same)
    later = replace(pairs, left=pairs.left[::-1], right=pairs.right[::-1], same=pairs.same[::-1])
    folded = replace(pairs, folds=np.zeros(len(pairs.same), np.int64))
    digests = {replace(pictures, pairs=one).digest for one in (pairs, turned, later, folded)}
    assert len(digests) == 4
    assert replace(pictures, pairs=replace(pairs)).digest == pictures.digest


@pytest.fixture
def damaged(write_drawings: Callable[..., None], tmp_path: Path) -> Path:
    """A folder as `folder`, of four classes, in which three pictures are no pictures."""
    write_drawings(tmp_path / "good.zip", groups=1, classes=4, pictures=4)
    write_pairs(tmp_path / "pairs.csv", classes=4, pictures=3)
    bad = {"class00/1.png", "class02/0.png", "class03/3.png"}
    with zipfile.ZipFile(tmp_path / "good.zip") as good, zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in good.namelist():
            archive.writestr(name, b"no picture" if name in bad else good.read(name))
    return tmp_path


def test_all_pictures_of_the_list_that_can_not_be_read_are_named(damaged: Path) -> None:
    # No pair needs the third.
    with pytest.raises(
        TrainingError, match=r"2 pictures can't be read.*\n  class00/1\.png: .*\n  class02/0\.png: "
    ) as caught:
        read_pair_pictures(damaged / "set.zip", damaged / "pairs.csv", preprocessing=SIZE)
    assert "class03/3.png" not in str(caught.value)


def test_pairs_of_pictures_that_can_not_be_read_are_left_out(damaged: Path) -> None:
    read = read_pair_pictures(damaged / "set.zip", damaged / "pairs.csv", preprocessing=SIZE, skip_bad=True)
    skipped = [one.partition(": ")[0] for one in read.skipped]
    assert skipped == ["class00/1.png", "class02/0.png"]
    # Each is in one different and two same pairs.
    assert (int(read.pairs.same.sum()), int((~read.pairs.same).sum())) == (12 - 4, 6 - 2)
    assert not set(skipped) & set(read.pairs.files)
    whole = read_pair_pictures(damaged / "good.zip", damaged / "pairs.csv", preprocessing=SIZE)
    places = [whole.pairs.files.index(file) for file in read.pairs.files]
    np.testing.assert_array_equal(read.images, whole.images[places])


def test_a_list_of_which_nothing_is_left_is_refused(damaged: Path) -> None:
    (damaged / "pairs.csv").write_text("class00/1.png,class00/0.png,1\nclass00/0.png,class02/0.png,0\n")
    with pytest.raises(TrainingError, match="2 pictures can't be read"):
        read_pair_pictures(damaged / "set.zip", damaged / "pairs.csv", preprocessing=SIZE, skip_bad=True)
