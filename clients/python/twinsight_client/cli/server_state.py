"""`twinsight models` and `twinsight health`: the server's models and health."""

from __future__ import annotations

from collections.abc import Sequence

import click

from twinsight_client.cli import exits
from twinsight_client.cli.help import examples
from twinsight_client.cli.numbers import FiniteRange
from twinsight_client.cli.output import percent, write_json
from twinsight_client.cli.settings import Settings, shared_options
from twinsight_client.cli.tables import write_fields, write_table
from twinsight_client.model_cards import Calibration, ModelInfo
from twinsight_client.results import HealthStatus

LABELS_SHOWN = 10


@click.command(
    short_help="List the server's models, or show one of them.",
    epilog=examples("twinsight models", "twinsight models base"),
)
@click.argument("name", required=False)
@shared_options()
@click.pass_obj
def models(settings: Settings, name: str | None) -> None:
    """List the server's models, or show the card of NAME: purpose, licence, scores on held-out data."""
    with settings.client() as client:
        if name is not None:
            _print_card(client.get_model(name), settings)
            return
        found = client.list_models()
    if settings.as_json:
        write_json({"models": found})
        return
    write_table(
        ("model", "task", "dimension ", "input", "licence", "default"),
        [
            (
                one.name,
                one.task,
                one.dimension or "",
                f"{one.input_height}x{one.input_width}",
                one.licence,
                "yes" if one.is_default else "",
            )
            for one in found
        ],
    )


@click.command(
    short_help="Check whether the server is serving.",
    epilog=examples(
        "twinsight health",
        "twinsight health --wait 30 && twinsight index ~/Pictures",
    ),
)
@click.option(
    "--wait",
    "wait_s",
    type=FiniteRange(min=0),
    metavar="SECONDS",
    help="Wait until it is serving, at most this long.",
)
@shared_options()
@click.pass_obj
def health(settings: Settings, wait_s: float | None) -> None:
    """Check whether the server is serving: exit code 0 if it is, 4 if not."""
    with settings.client() as client:
        if wait_s:
            client.wait_ready(timeout_s=wait_s)
        status = client.health()
    if settings.as_json:
        write_json({"target": settings.target, "status": status})
    else:
        write_fields({settings.target: status})
    if status is not HealthStatus.SERVING:
        raise click.exceptions.Exit(exits.UNREACHABLE)


def _print_card(card: ModelInfo, settings: Settings) -> None:
    if settings.as_json:
        write_json(card)
        return
    fields: dict[str, object] = {
        "model": card.name + (" (default)" if card.is_default else ""),
        "digest": card.digest,
        "task": card.task,
        "architecture": card.architecture,
        "input": f"{card.input_height}x{card.input_width} pixels",
        "dimension": card.dimension or None,
        "labels": _summarise_labels(card.labels),
        "licence": card.licence,
        "training data": card.training_data,
        "description": card.description,
    }
    if card.calibration is not None:
        fields |= _calibration_fields(card.calibration)
    for measure, score in card.scores.items():
        fields[f"score {measure}"] = f"{score:.4g}"
    write_fields({name: value for name, value in fields.items() if value is not None})


def _summarise_labels(labels: Sequence[str]) -> str | None:
    """Returns the number of labels and the first ones; None if there are none."""
    if not labels:
        return None
    more = ", …" if len(labels) > LABELS_SHOWN else ""
    return f"{len(labels)}: {', '.join(labels[:LABELS_SHOWN])}{more}"


def _calibration_fields(stated: Calibration) -> dict[str, object]:
    fields: dict[str, object] = {
        "probability that": stated.meaning,
        "threshold": f"{stated.threshold:.4f}",
        "false matches": _rate(stated.false_match_rate, stated.false_match_rate_low, stated.false_match_rate_high),
        "false non-matches": _rate(
            stated.false_non_match_rate, stated.false_non_match_rate_low, stated.false_non_match_rate_high
        ),
        "calibration error": percent(stated.expected_calibration_error),
    }
    for point in stated.operating_points:
        matches = _rate(point.false_match_rate, point.false_match_rate_low, point.false_match_rate_high)
        misses = _rate(point.false_non_match_rate, point.false_non_match_rate_low, point.false_non_match_rate_high)
        fields[f"at false match rate {point.target_fmr:g}"] = (
            f"threshold {point.threshold:.4f}, false matches {matches}, false non-matches {misses}"
        )
    return fields


def _rate(rate: float, low: float | None, high: float | None) -> str:
    """Returns a rate in percent, with its interval if there is one."""
    return f"{rate:.3%}" + ("" if low is None or high is None else f" ({low:.3%} to {high:.3%})")
