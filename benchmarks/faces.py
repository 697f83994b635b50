"""Faces: `twinsight train siamese` on identities outside one fold of Labeled Faces in the Wild, measured on its pairs.

`python -m benchmarks.faces --data DIR` trains into `training/faces`; `benchmarks.scores` measures what is there. The
weights do not ship: the pictures are for research.

Source: Huang et al., "Labeled Faces in the Wild", 2007: the pairs of View 2, whose folds share no identity.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from twinsight_core.commands.labelled import listed_pictures, scored_pairs
from twinsight_core.evaluation.verification import roc_curve
from twinsight_core.packages import load_package
from twinsight_core.training.class_folders import classes_of
from twinsight_core.training.data import PictureSource
from twinsight_core.training.findings import pair_findings
from twinsight_core.training.pairs import read_pairs

FOLD = 7
"""Of the seven that the data has pairs of."""
PICTURES, PAIRS = "lfw_dev.zip", "pairs_dev.txt"
PACKAGE = "faces"
FARS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""False accept rates at which the curve is told."""
OPTIONS = (
    *("--augmentation", "faces", "--size", "128", "--frozen-blocks", "4", "--classes", "24", "--pictures", "3"),
    *("--steps", "700", "--learning-rate", "5e-4", "--licence", "not for use: LFW is for research"),
)  # fmt: skip


def train(data: Path, out: Path) -> None:
    """Trains the embedding into `out`/faces, without the fold's identities and those of one picture."""
    source = PictureSource(data / PICTURES)
    pairs = read_pairs(_pair_list(source, out), source.files)
    of_fold = pairs.folds == FOLD - 1 if pairs.folds is not None else np.ones(len(pairs.same), np.bool_)
    files = [pairs.files[place] for place in np.concatenate([pairs.left[of_fold], pairs.right[of_fold]])]
    counts = Counter(classes_of(source.files))
    excluded = sorted(set(classes_of(files)) | {name for name, count in counts.items() if count < 2})
    names = out / f"{PACKAGE}-excluded.txt"
    names.write_text("\n".join(excluded) + "\n", "utf-8")
    twinsight = Path(sys.executable).parent / "twinsight"
    command = [twinsight, "train", "siamese", "--data", data / PICTURES, "--out", out / PACKAGE, "--exclude", names]
    subprocess.run([*map(str, command), *OPTIONS], check=True)


def scores(data: Path, out: Path) -> dict[str, float]:
    """Returns verification on the fold's pairs; trains first where `out` holds no package yet.

    `accuracy_at_probability_half` is of the package's own decision, fitted on other people's pictures;
    `verification_accuracy` is at the best threshold on these very pairs.
    """
    if not (out / PACKAGE / "model.json").exists():
        train(data, out)
    package = load_package(out / PACKAGE)
    read = listed_pictures(package, data / PICTURES, _pair_list(PictureSource(data / PICTURES), out))
    listed = read.pairs
    of_fold = np.asarray(listed.folds) == FOLD - 1
    fold = scored_pairs(package, read).part(of_fold)
    found = pair_findings(fold, None, rows=listed.sides[of_fold], images=read.images, files=listed.files).scores
    if package.card.calibration is not None:
        likely = package.card.calibration.probability(fold.cosine) >= 0.5
        found["accuracy_at_probability_half"] = float(np.mean(likely == fold.same))
    roc = roc_curve(fold)
    for far in FARS:
        within = roc.true_accept_rate[roc.false_accept_rate <= far]
        found[f"roc_tar_at_far_{far:g}"] = float(within.max())
    return found


def _pair_list(source: PictureSource, out: Path) -> Path:
    """Takes the list of pairs out of the pictures' zip."""
    out.mkdir(parents=True, exist_ok=True)
    listed = out / PAIRS
    listed.write_bytes(source.read(PAIRS))
    return listed


def main() -> None:
    """Trains the embedding of faces."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {PICTURES}")
    parser.add_argument("--out", type=Path, default=Path("training"), help="folder for the package [%(default)s]")
    chosen = parser.parse_args()
    train(chosen.data, chosen.out)


if __name__ == "__main__":
    main()
