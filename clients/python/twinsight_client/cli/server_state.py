"""`twinsight models` and `twinsight health`: what the server is and whether it serves."""

from __future__ import annotations

import click

from twinsight_client.cli import exits
from twinsight_client.cli.help import examples
from twinsight_client.cli.output import percent, write_fields, write_json, write_table
from twinsight_client.cli.settings import Settings, shared_options
from twinsight_client.results import HealthStatus, ModelInfo


@click.command(short_help="List the server's models, or show one's card.")
@click.argument("name", required=False)
@shared_options()
@click.pass_obj
def models(settings: Settings, name: str | None) -> None:
    """List the server's models, or show the card of NAME: what it is for, its licence, its scores on held-out data."""
    with settings.client() as client:
        if name is not None:
            _tell(client.get_model(name), settings)
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
                one.dimension,
                f"{one.input_height}x{one.input_width}",
                one.licence,
                "yes" if one.is_default else "",
            )
            for one in found
        ],
    )


@click.command(
    short_help="Say whether the server serves.",
    epilog=examples(
        "twinsight health",
        "twinsight health --wait 30 && twinsight index ~/Pictures",
    ),
)
@click.option(
    "--wait", "wait_s", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait until it does, this long."
)
@shared_options()
@click.pass_obj
def health(settings: Settings, wait_s: float | None) -> None:
    """Say whether the server serves: exit code 0 where it does, 4 where it does not."""
    with settings.client() as client:
        if wait_s is not None:
            client.wait_ready(timeout_s=wait_s)
        status = client.health()
    if settings.as_json:
        write_json({"target": settings.target, "status": status})
    else:
        write_fields({settings.target: status})
    if status is not HealthStatus.SERVING:
        raise click.exceptions.Exit(exits.UNREACHABLE)


def _tell(card: ModelInfo, settings: Settings) -> None:
    if settings.as_json:
        write_json(card)
        return
    fields: dict[str, object] = {
        "model": card.name + (" (default)" if card.is_default else ""),
        "digest": card.digest,
        "task": card.task,
        "architecture": card.architecture,
        "input": f"{card.input_height}x{card.input_width} pixels",
        "dimension": card.dimension,
        "licence": card.licence,
        "training data": card.training_data,
        "description": card.description,
    }
    if card.calibration is not None:
        fields["probability that"] = card.calibration.meaning
        fields["threshold"] = f"{card.calibration.threshold:.4f}"
        fields["false matches"] = percent(card.calibration.false_match_rate)
        fields["false non-matches"] = percent(card.calibration.false_non_match_rate)
        fields["calibration error"] = percent(card.calibration.expected_calibration_error)
    for measure, score in card.scores.items():
        fields[f"score {measure}"] = f"{score:.4g}"
    write_fields(fields)
