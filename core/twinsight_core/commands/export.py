"""`twinsight export`: a model package as a file for another runtime."""

from __future__ import annotations

from pathlib import Path

import click

from twinsight_core.commands.failing import exit_on_failure
from twinsight_core.commands.output import write_line
from twinsight_core.commands.paths import PathType
from twinsight_core.exporting.package import FORMATS, Format, export_package
from twinsight_core.packages import find_package


@click.command(
    "export",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Export a model for another runtime: uint8 pictures in, outputs out, preprocessing and weights inside.

    The file is run and compared with the model before it is put in place. Labels, preprocessing, calibration, licence
    and the meaning of the outputs are in an ONNX file's metadata, or in OUT.json beside StableHLO.

    \b
    Examples:
      twinsight export --model base --format onnx --out base.onnx
      twinsight export --model models/faces --format stablehlo --out faces.stablehlo
    """,
)
@click.option(
    "--model",
    required=True,
    metavar="NAME",
    help="A shipped model, a package folder, or a name in --models-dir.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(FORMATS),
    required=True,
    help="onnx needs the extra `onnx`; stablehlo is jax.export's serialised form.",
)
@click.option("--out", type=PathType(dir_okay=False), required=True, help="File to write.")
@click.option(
    "--models-dir",
    type=PathType(),
    envvar="TWINSIGHT_MODELS_DIR",
    show_envvar=True,
    help="Folder whose sub-folders are further model packages.",
)
def export(*, model: str, format_name: Format, out: Path, models_dir: Path | None) -> None:
    """Exports as the options say."""
    with exit_on_failure():
        package = find_package(model, models_dir)
        done = export_package(package, format=format_name, out=out)
    pixels = package.card.preprocessing
    batch = "any batch size" if done.batch is None else f"batches of {done.batch}"
    size = f"pictures of {pixels.height_px}x{pixels.width_px}"
    if done.description is not None:
        write_line(f"{done.description}: description of the model, its input and its outputs", err=True)
    write_line(f"{done.path}: {done.format}, {done.size_bytes} bytes, {batch}, {size}, {done.agreement}")
