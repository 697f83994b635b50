"""Model packages: a model is data, a folder with a card and weights, named by its digest.

    NAME/model.json            the card: architecture, input, calibration, licence, training data, scores
    NAME/weights.safetensors   every tensor of the network, float32

Reading a package runs no code from it: the card is plain JSON, checked field by field; the weights are tensors, checked
one by one against the architecture; and the architecture is one of those known by name. JAX is imported only when a
network is built: importing it takes longer than reading all packages.

The digest is "sha256:" and the SHA-256, in hexadecimal, of

1. `twinsight model 1` and a line feed,
2. the canonical JSON (keys sorted, no spaces, ASCII, shortest floats) of the card's `architecture`, `config`, `task`,
   `preprocessing`, `dimension`, `labels` and `calibration`, and a line feed,
3. the bytes of `weights.safetensors`.

These determine the vectors and their meaning. Texts and scores (licence, training data, description, scores, recipe)
and the folder's name are not included: correcting a sentence does not separate a collection from its model.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import safetensors
import safetensors.numpy

from twinsight_core.calibration import Calibration
from twinsight_core.errors import PackageError
from twinsight_core.host.bounded_files import FileTooLarge, read_bounded
from twinsight_core.host.whole_files import exchanged, sync_file, sync_folder
from twinsight_core.images import PREPROCESSING_VERSIONS, Preprocessing
from twinsight_core.json_fields import JsonFields
from twinsight_core.models.configs.architectures import ARCHITECTURES, Config, check_input
from twinsight_core.models.configs.mobilefacenet import MobileFaceNetConfig
from twinsight_core.models.configs.siamese import MAX_DIMENSION, SiameseConfig
from twinsight_core.models.tasks import TASKS, Task

if TYPE_CHECKING:
    from twinsight_core.models.registry import Network

FORMAT_VERSION = 1
CARD_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
REPORT_FILE = "report.html"
# Room for the labels of the largest classifier, 100,000, at 150 bytes each, and for everything else.
MAX_CARD_BYTES = 16 * 1024 * 1024
MAX_SCORED_LABELS = 1000
"""With more labels, the card has no scores per label: they would be most of it."""
# Far above any network here; keeps a wrong file from filling memory.
MAX_WEIGHTS_BYTES = 2 * 1024 * 1024 * 1024
MAX_INPUT_PX = 4096
FITS: tuple[Literal["stretch", "crop", "pad"], ...] = ("stretch", "crop", "pad")

_SHIPPED = Path(__file__).parent / "shipped"
_CARD_WORDS_BYTES = 1024 * 1024
_DIGEST_HEADER = b"twinsight model 1\n"


@dataclass(frozen=True)
class ModelCard:
    """What `model.json` says.

    Attributes:
        architecture: name in `twinsight_core.models.configs.architectures.ARCHITECTURES`.
        config: the architecture's configuration.
        task: what the network is for, see `twinsight_core.models.tasks`; the architecture's.
        preprocessing: how a picture becomes the network's input.
        dimension: components of a vector; 0 where the task is not embedding.
        licence: licence of the weights, an SPDX identifier or a sentence.
        training_data: what the weights were trained on, and under which terms.
        description: what the model is for and where it fails.
        labels: names of the classes by number; none for an embedding model.
        calibration: how cosine similarities become probabilities; None if not calibrated.
        scores: scores on held-out data by name of the measure.
        recipe: the command that made the weights.
    """

    architecture: str
    config: Config
    task: Task
    preprocessing: Preprocessing
    dimension: int
    licence: str
    training_data: str
    description: str
    labels: tuple[str, ...] = ()
    calibration: Calibration | None = None
    scores: dict[str, float] = field(default_factory=dict)
    recipe: str = ""

    def to_json(self) -> dict[str, object]:
        """Returns the card as plain values, in the order of `model.json`."""
        return {
            "architecture": self.architecture,
            "config": self.config.to_json(),
            "task": self.task,
            "preprocessing": asdict(self.preprocessing),
            "dimension": self.dimension,
            "labels": list(self.labels),
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "licence": self.licence,
            "training_data": self.training_data,
            "description": self.description,
            "recipe": self.recipe,
            "scores": self.scores,
        }

    @classmethod
    def from_json(cls, values: object) -> ModelCard:
        """Returns the card of `to_json`'s values.

        Raises:
            ValueError: a value is missing, unknown, of the wrong type or breaks its rule.
        """
        card = JsonFields(values)
        # Cards of version 1 don't state it; later ones may have fields that are unknown here.
        version = card.integer("format_version", least=1, most=2**31) if "format_version" in card else 1
        if version > FORMAT_VERSION:
            raise ValueError(
                f"it was written by a later version of twinsight (format version {version}; this one reads up to "
                f"{FORMAT_VERSION})."
            )
        card.check_names(cls.__dataclass_fields__)
        kind = card.choice("architecture", tuple(ARCHITECTURES))
        config = ARCHITECTURES[kind].from_json(card.object("config"))
        task = card.choice("task", TASKS)
        if task != config.TASK:
            raise ValueError(f"`task` (={task!r}) must be {config.TASK!r}, that of `{kind}`.")
        dimension = config.dimension if isinstance(config, SiameseConfig | MobileFaceNetConfig) else 0
        if card.integer("dimension", least=0, most=MAX_DIMENSION) != dimension:
            raise ValueError(f"`dimension` must be {dimension}, as in `config`.")
        labels = card.texts("labels")
        if len(labels) != label_count(config) or len(set(labels)) != len(labels) or "" in labels:
            raise ValueError(f"`labels` must be {label_count(config)} distinct names, none empty.")
        preprocessing = _preprocessing(card.object("preprocessing", Preprocessing.__dataclass_fields__))
        check_input(config, height_px=preprocessing.height_px, width_px=preprocessing.width_px)
        calibration = card.optional_object("calibration", Calibration.__dataclass_fields__)
        return cls(
            architecture=kind,
            config=config,
            task=config.TASK,
            preprocessing=preprocessing,
            dimension=dimension,
            labels=labels,
            calibration=None if calibration is None else Calibration.from_json(calibration),
            licence=card.text("licence"),
            training_data=card.text("training_data"),
            description=card.text("description"),
            recipe=card.text("recipe"),
            scores=card.object("scores").numbers(),
        )


@dataclass(frozen=True)
class ModelPackage:
    """A package that was read and whose digest is known; `build` returns the network.

    Attributes:
        name: the folder's name.
        digest: "sha256:" and 64 hexadecimal digits; vectors compare only under equal digests.
        card: what `model.json` says.
        folder: its folder.
    """

    name: str
    digest: str
    card: ModelCard
    folder: Path

    @property
    def is_shipped(self) -> bool:
        """Whether it ships with twinsight."""
        return self.folder.parent == _SHIPPED

    def build(self) -> Network:
        """Returns the network with the package's weights, in evaluation mode.

        Raises:
            PackageError: the weights can't be read, do not fit the architecture or are not finite, or the package
                changed on disk since it was loaded.
        """
        path = self.folder / WEIGHTS_FILE
        content = _read(path, MAX_WEIGHTS_BYTES)
        if _digest(self.card, content) != self.digest:
            raise PackageError(f"{path}: the file has changed since it was loaded.", reason="PACKAGE_CHANGED")
        try:
            tensors = safetensors.numpy.load(content)
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise PackageError(f"{path}: not a safetensors file ({error}).", reason="PACKAGE_WEIGHTS") from error
        from twinsight_core.models.tensors import network_of  # noqa: PLC0415 - brings JAX along

        try:
            return network_of(self.card.config, tensors)
        except ValueError as error:
            raise PackageError(f"{path}: {error}", reason="PACKAGE_WEIGHTS") from error


def label_count(config: Config) -> int:
    """Returns how many labels the card of a network must have."""
    return 0 if isinstance(config, SiameseConfig | MobileFaceNetConfig) else config.classes


def check_labels(labels: Sequence[str]) -> None:
    """Checks before training that a card can hold a network's labels besides 1 MiB of everything else.

    Raises:
        PackageError: together they are too long.
    """
    # As `save_package` writes them, each in a line.
    size = sum(len(json.dumps(label, ensure_ascii=False).encode()) + len("    ,\n") for label in labels)
    # A score for each, by the label's name.
    size *= 2 if len(labels) <= MAX_SCORED_LABELS else 1
    if size > MAX_CARD_BYTES - _CARD_WORDS_BYTES:
        raise PackageError(
            f"The names of the {len(labels):,} classes take {size:,} bytes in the model's card; the limit is "
            f"{MAX_CARD_BYTES - _CARD_WORDS_BYTES:,}. Use shorter names.",
            reason="PACKAGE_TOO_LARGE",
        )


def load_package(folder: Path) -> ModelPackage:
    """Reads and checks one package; its name is the folder's.

    Raises:
        PackageError: a file is missing, too large or unreadable, or the card breaks a rule; the message names both.
    """
    path = folder / CARD_FILE
    content = _read(path, MAX_CARD_BYTES)
    try:
        values = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{path}: not JSON ({error}).", reason="PACKAGE_CARD") from error
    try:
        card = ModelCard.from_json(values)
    except ValueError as error:
        raise PackageError(f"{path}: {error}", reason="PACKAGE_CARD") from error
    digest = _digest(card, _read(folder / WEIGHTS_FILE, MAX_WEIGHTS_BYTES))
    return ModelPackage(name=folder.name, digest=digest, card=card, folder=folder)


def package_folders(models_dir: Path | None = None) -> dict[str, Path]:
    """Returns the folders of packages by name, in order, unread.

    Args:
        models_dir: folder that holds them; files, names that start with a dot or `__`, and `lost+found` are ignored.
            None: that of the shipped ones.

    Raises:
        PackageError: the folder does not exist.
    """
    parent = models_dir or _SHIPPED
    if not parent.is_dir():
        raise PackageError(f"{parent}: the models folder does not exist.", reason="PACKAGE_MISSING")
    found = (one for one in parent.iterdir() if not one.name.startswith((".", "__")) and one.name != "lost+found")
    return {one.name: one for one in sorted(found) if one.is_dir()}


def load_packages(models_dir: Path) -> list[ModelPackage]:
    """Reads every package of a folder, by name; see `package_folders`.

    Raises:
        PackageError: the folder does not exist, or a package in it can't be read.
    """
    return [load_package(folder) for folder in package_folders(models_dir).values()]


def shipped_packages() -> list[ModelPackage]:
    """Returns the packages that ship with twinsight, by name.

    Raises:
        PackageError: the installation is damaged.
    """
    return load_packages(_SHIPPED)


def find_package(name: str, models_dir: Path | None = None) -> ModelPackage:
    """Returns a package by name or path.

    Args:
        name: of a shipped package or of one in `models_dir`, or the path of a package folder.
        models_dir: folder of further packages; they take precedence over the shipped ones.

    Raises:
        PackageError: there is none of that name, or it can't be read.
    """
    for folder in (*([models_dir / name] if models_dir else []), _SHIPPED / name, Path(name)):
        if (folder / CARD_FILE).is_file():
            return load_package(folder.absolute())
    shipped = ", ".join(f"`{one}`" for one in package_folders())
    raise PackageError(
        f"Model `{name}` does not exist: it is neither a shipped model ({shipped}) nor a package folder.",
        reason="MODEL_NOT_FOUND",
    )


def check_replaceable(folder: Path) -> None:
    """Checks that a package may be written to a folder: it does not exist, is empty, or holds only a package.

    Raises:
        PackageError: it holds other files, which would be lost.
    """
    if not folder.exists():
        return
    names = {one.name for one in folder.iterdir()} if folder.is_dir() else {folder.name}
    others = sorted(names - {CARD_FILE, WEIGHTS_FILE, REPORT_FILE})
    if others or (names and CARD_FILE not in names):
        raise PackageError(
            f"{folder}: can't write a model package here, because `{(others or sorted(names))[0]}` would be lost; "
            "name a folder that does not exist.",
            reason="PACKAGE_IN_THE_WAY",
        )


def save_package(folder: Path, card: ModelCard, module: Network, *, report: bytes | None = None) -> ModelPackage:
    """Writes a package completely or not at all; replaces an existing one together with its report.

    If the folder is a symbolic link, the link stays and its target is replaced.

    Args:
        folder: of the package.
        card: content of `model.json`, matching the network.
        module: the network.
        report: content of `report.html`; None for none.

    Raises:
        PackageError: a weight is not a finite float32, the card does not match the network, or the folder holds
            something other than a package.
    """
    check_replaceable(folder)
    from twinsight_core.models.tensors import tensors_of  # noqa: PLC0415 - brings JAX along

    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    partial = beside / target.name
    try:
        partial.mkdir()  # with the umask's permissions, which `mkdtemp` ignores
        content = safetensors.numpy.save(tensors_of(module))
        (partial / WEIGHTS_FILE).write_bytes(content)
        text = json.dumps(card.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        (partial / CARD_FILE).write_text(text + "\n", encoding="utf-8")
        if report is not None:
            (partial / REPORT_FILE).write_bytes(report)
        # A package that can't be read back is not put in place.
        load_package(partial).build()
        _put_in_place(partial, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return load_package(folder)


def _put_in_place(made: Path, target: Path) -> None:
    """Moves a folder to the place of another, which comes to be where that was, or is deleted.

    If that fails, the other is as it was. Where the file system can exchange folders in one step, one of the two is in
    place at any time.
    """
    for file in made.iterdir():
        sync_file(file)
    with suppress(OSError):  # not every file system can sync folders
        sync_folder(made)
    if not target.exists():
        made.replace(target)
    elif not exchanged(made, target):
        _replace_in_two_steps(made, target)
    with suppress(OSError):
        sync_folder(target.parent)


def _replace_in_two_steps(made: Path, target: Path) -> None:
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    try:
        target.replace(old)
    except OSError:
        old.rmdir()
        raise
    try:
        made.replace(target)
    except OSError:
        old.replace(target)
        raise
    shutil.rmtree(old)


def _digest(card: ModelCard, weights: bytes) -> str:
    """Returns the digest that the module's docstring defines."""
    meaning = card.to_json()
    for words in ("licence", "training_data", "description", "recipe", "scores"):
        del meaning[words]
    hasher = hashlib.sha256(_DIGEST_HEADER)
    hasher.update(json.dumps(meaning, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n")
    hasher.update(weights)
    return f"sha256:{hasher.hexdigest()}"


def _read(path: Path, limit: int) -> bytes:
    """Returns a file's bytes; reads nothing of one that is not a regular file or has more than `limit`."""
    try:
        return read_bounded(path, limit)
    except FileTooLarge as error:
        raise PackageError(f"{path}: {error.strerror}.", reason="PACKAGE_TOO_LARGE") from error
    except FileNotFoundError as error:
        raise PackageError(f"{path}: the file is missing.", reason="PACKAGE_MISSING") from error
    except OSError as error:
        raise PackageError(f"{path}: can't be read ({error.strerror}).", reason="PACKAGE_UNREADABLE") from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _preprocessing(fields: JsonFields) -> Preprocessing:
    version = fields.integer("version", least=0, most=2**31)
    if version not in PREPROCESSING_VERSIONS:
        known = " or ".join(str(one) for one in PREPROCESSING_VERSIONS)
        raise ValueError(f"`preprocessing.version` (={version}) must be {known}.")
    return Preprocessing(
        height_px=fields.integer("height_px", least=1, most=MAX_INPUT_PX),
        width_px=fields.integer("width_px", least=1, most=MAX_INPUT_PX),
        fit=fields.choice("fit", FITS),
        version=version,
    )
