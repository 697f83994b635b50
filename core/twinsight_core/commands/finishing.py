"""How a training command ends: it writes the package and its report, and prints the scores."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from twinsight_core.commands.output import write_line
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.rcnn import FasterRCNN
from twinsight_core.models.siamese import SiameseNetwork
from twinsight_core.packages import MAX_SCORED_LABELS, REPORT_FILE, ModelCard, save_package
from twinsight_core.training.findings import RECALL_OF
from twinsight_core.training.report import Findings, write_report
from twinsight_core.training.runs import NO_START, Run, Watching


def held_out_from(run: Run) -> str:
    """Returns what is known of the pictures that were scored."""
    known = []
    if run.start != NO_START:
        known.append(f"; pictures that `{run.start}`, its start, was trained on are not excluded")
    if run.distillation is not None:
        known.append(f"; pictures that `{run.distillation.teacher.name}`, its teacher, was trained on are not excluded")
    return f"held out from this training{''.join(known)}"


def finish(
    run: Run, card: ModelCard, network: Classifier | SiameseNetwork | FasterRCNN, findings: Findings, watching: Watching
) -> None:
    """Writes the package and its report, and prints where they are and the scores.

    The decoded pictures are deleted then; a run that is resumed after its end decodes them again.
    """
    if not run.report_pictures:
        findings = replace(findings, mistakes=())
    if watching.history.early_end is not None:
        step, best_step = watching.history.early_end
        findings = replace(
            findings,
            protocol=f"{findings.protocol} Training stopped early, after {step} of {run.steps} steps: for "
            f"{step - best_step} steps no validation was better than at step {best_step}, whose weights were kept.",
        )
    scores = card_scores(findings.scores, card.labels)
    package = save_package(run.out, replace(card, scores=scores), network)
    write_report(run.out / REPORT_FILE, package, findings, watching.history)
    run.end()
    write_line(findings.protocol, err=True)
    for name, value in scores.items():
        write_line(f"{name:40} {value:.4f}")
    write_line(f"wrote {run.out} ({package.digest}); its report is {run.out / REPORT_FILE}", err=True)


def card_scores(scores: Mapping[str, float], labels: Sequence[str]) -> dict[str, float]:
    """Returns the scores for a card, rounded, by name; the recall of each class only up to `MAX_SCORED_LABELS` labels.

    Args:
        scores: by name, as the report has them.
        labels: names of the classes.
    """
    of_classes = {f"{RECALL_OF}{label}" for label in labels} if len(labels) > MAX_SCORED_LABELS else set()
    return {name: round(value, 4) for name, value in sorted(scores.items()) if name not in of_classes}


def recipe() -> str:
    """Returns this command line without the texts for the card and without local paths."""
    words = iter(sys.argv[1:])
    kept: list[str] = ["twinsight"]
    for word in words:
        name, equals, value = word.partition("=")
        if name in {"--description", "--licence", "--training-data"}:
            if not equals:
                next(words, None)
        elif name in {"--data", "--out", "--pairs", "--exclude", "--annotations"}:
            kept += [name, name[2:].upper()]
            if not equals:
                next(words, None)
        elif name in {"--start", "--teacher"}:
            # A model's name, or the path of its folder.
            kept += [name, Path(value if equals else next(words, "")).name]
        elif name not in {"--resume", "--anew"}:
            kept.append(word)
    return shlex.join(kept)
