"""The models that a server serves, each with its package, engine and batcher."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from twinsight_core.engine import Engine
from twinsight_core.errors import FailedPrecondition, InvalidInput, NotFound, PackageError
from twinsight_core.executors.choice import ChosenExecutor
from twinsight_core.models.tasks import Task
from twinsight_core.packages import ModelPackage, load_package, package_folders
from twinsight_server.config import ServerConfig
from twinsight_server.inference.batcher import CLOSING_S, Batcher
from twinsight_server.metrics import Metrics

MOST_AT_ONCE: dict[Task, int] = {"embedding": 4096, "classification": 4096, "detection": 4}
"""Largest batch by task: one picture keeps a detector busy, and each of its batch sizes takes long to compile."""

MOST_ON_HOST: dict[Task, int] = {"embedding": 4, "classification": 4, "detection": 1}
"""Largest batch of one core. Two cores of an AMD EPYC compute `base` a tenth faster in batches of 4 than one by one,
and no faster in larger batches, whose pictures would only wait for one another. For `cells`, batches of 2 and 4 took
1.06 and 1.27 times as long per picture as single ones, and their programs half a gigabyte."""

_BASE = "base"
"""The default model if none is set and this one is served."""

log = structlog.stdlib.get_logger("twinsight.models")


@dataclass(frozen=True)
class ServedModel:
    """A loaded model.

    Attributes:
        package: its name, digest and card.
        engine: runs it; called only by the batcher once the server serves.
        batcher: queues pictures for it.
    """

    package: ModelPackage
    engine: Engine
    batcher: Batcher

    @property
    def name(self) -> str:
        """The name by which calls select it."""
        return self.package.name

    @property
    def digest(self) -> str:
        """Identifies its weights and preprocessing."""
        return self.package.digest


class Models:
    """All served models by name."""

    def __init__(self, packages: dict[str, ModelPackage], config: ServerConfig, metrics: Metrics) -> None:
        """Creates the engines; builds and compiles nothing yet.

        Raises:
            PackageError: `default_model` is not among the packages.
        """
        self.default_name = _default_name(packages, config)
        self._models: dict[str, ServedModel] = {}
        for name, package in sorted(packages.items()):
            card = package.card
            engine = Engine(
                ChosenExecutor(package, config.executor, cache_dir=config.cache / "exported"),
                card.preprocessing,
                answer_shape=card.config.answer_shape,
                buckets=[one for one in config.buckets if one <= MOST_AT_ONCE[card.task]] or config.buckets[:1],
                most_on_host=MOST_ON_HOST[card.task],
            )
            batcher = Batcher(
                name,
                engine,
                metrics,
                queue_size=config.queue_size,
                wait_s=config.batch_wait_s,
                p99_goal_s=config.p99_goal_ms / 1e3,
            )
            self._models[name] = ServedModel(package, engine, batcher)

    def warm_up(self, is_in_vain: Callable[[], bool]) -> None:
        """Compiles each model for every bucket and starts its lanes; stops before the next model if `is_in_vain`."""
        models = self.all()
        log.info("preparing models; the first start takes longer", models=[model.name for model in models])
        for model in models:
            if is_in_vain():
                return
            model.engine.warm_up()
            model.batcher.start()
            log.info("model ready", model=model.name, digest=model.digest, executor=model.engine.executor_name)

    def get(self, name: str) -> ServedModel:
        """Returns the model of a name; for an empty name, the default model.

        Raises:
            NotFound: no model has the name.
            InvalidInput: none was named, and there is no default.
        """
        if not (name or self.default_name):
            raise InvalidInput(
                "`model` must be set: there is no default model.", reason="MODEL_AMBIGUOUS", field="model"
            )
        found = self._models.get(name or self.default_name)
        if found is None:
            raise NotFound.among("Model", name, self._models, reason="MODEL_NOT_FOUND", field="model")
        return found

    def get_for(self, task: Task, name: str) -> ServedModel:
        """Returns a model for a task; for an empty name the default model, or else the only one for the task.

        Raises:
            NotFound: no model has the name, or none is for the task.
            FailedPrecondition: the model is for another task.
            InvalidInput: several are for the task, and none was named.
        """
        able = [model for model in self.all() if model.package.card.task == task]
        if not name and self._models.get(self.default_name) not in able:
            if not able:
                raise NotFound(f"No model for {task} is loaded.", reason="MODEL_NOT_FOUND", field="model")
            if len(able) > 1:
                names = ", ".join(f"`{model.name}`" for model in able)
                raise InvalidInput(
                    f"`model` must be set; available for {task}: {names}.", reason="MODEL_AMBIGUOUS", field="model"
                )
            return able[0]
        model = self.get(name)
        if model not in able:
            raise FailedPrecondition(
                f"Model `{model.name}` is for {model.package.card.task}, not {task}.",
                reason="MODEL_TASK",
                field="model",
            )
        return model

    def with_digest(self, digest: str) -> ServedModel | None:
        """Returns the model with a digest, whatever its name; None if it is not loaded."""
        return next((model for model in self._models.values() if model.digest == digest), None)

    def all(self) -> list[ServedModel]:
        """Returns the models sorted by name."""
        return list(self._models.values())

    def close(self) -> None:
        """Computes what is queued and stops the lanes, however many of the models hang."""
        ends = time.monotonic() + CLOSING_S
        for model in self.all():
            model.batcher.close(ends - time.monotonic())


def _default_name(packages: dict[str, ModelPackage], config: ServerConfig) -> str:
    """Returns the default model's name: the given one, `base` if served, the only embedding model, or else "".

    Raises:
        PackageError: the given one is not among the packages.
    """
    given = config.default_model.strip()
    if given and given not in packages:
        missing = NotFound.among("Default model", given, packages, reason="MODEL_NOT_FOUND").message
        raise PackageError(f"{missing} Give one of these as `--default-model`.", reason="MODEL_NOT_FOUND")
    if given:
        return given
    if _BASE in packages:
        return _BASE
    embedders = [name for name, package in packages.items() if package.card.task == "embedding"]
    return embedders[0] if len(embedders) == 1 else ""


def read_packages(config: ServerConfig) -> dict[str, ModelPackage]:
    """Returns the packages to serve by name; those of `models_dir` replace shipped ones of the same name.

    Raises:
        PackageError: one can't be read, `models_dir` is not a folder, or a name in `models` does not exist.
    """
    folders = package_folders()
    if config.models_dir is not None:
        folders |= package_folders(config.models_dir)
    wanted = [name.strip() for name in config.models.split(",") if name.strip()]
    for name in wanted:
        if name not in folders:
            raise PackageError(
                NotFound.among("Model", name, folders, reason="MODEL_NOT_FOUND").message, reason="MODEL_NOT_FOUND"
            )
    # Others may be half copied, or of a later version.
    return {name: load_package(folders[name]) for name in wanted or sorted(folders)}
