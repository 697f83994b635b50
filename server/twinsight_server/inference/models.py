"""The models that a server offers: each a package, an engine and a batcher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from twinsight_core.engine import Engine
from twinsight_core.errors import FailedPrecondition, InvalidInput, NotFound, PackageError
from twinsight_core.executors.choice import ChosenExecutor
from twinsight_core.models.tasks import Task
from twinsight_core.packages import ModelPackage, load_packages, shipped_packages
from twinsight_server.config import ServerConfig
from twinsight_server.inference.batcher import Batcher
from twinsight_server.metrics import Metrics

MOST_AT_ONCE: dict[Task, int] = {"embedding": 4096, "classification": 4096, "detection": 4}
"""Largest batch by task: one picture keeps a detector busy, and each of its batch sizes takes long to compile."""

MOST_ON_HOST: dict[Task, int] = {"embedding": 4, "classification": 4, "detection": 1}
"""Largest batch of one core. Two cores of an AMD EPYC compute `base` a tenth faster in fours than one by one and no
faster in more, which would keep the pictures of a batch waiting for one another. Of `cells` two and four at once took
1.06 and 1.27 times the time a picture that one takes, and their programs half a gigabyte."""

_BASE = "base"
"""The default model where none is given and it is served."""

log = structlog.stdlib.get_logger("twinsight.models")


@dataclass(frozen=True)
class ServedModel:
    """A model that is loaded.

    Attributes:
        package: its name, digest and card.
        engine: computes; called by the batcher alone once it serves.
        batcher: the way to it.
    """

    package: ModelPackage
    engine: Engine
    batcher: Batcher

    @property
    def name(self) -> str:
        """Name under which calls ask for it."""
        return self.package.name

    @property
    def digest(self) -> str:
        """Names its weights and preprocessing."""
        return self.package.digest


class Models:
    """All models by name: those that ship, and those of `models_dir`, which take precedence."""

    def __init__(self, packages: dict[str, ModelPackage], config: ServerConfig, metrics: Metrics) -> None:
        """Makes the engines; builds and compiles nothing yet.

        Raises:
            PackageError: the default model that was given is not among the packages.
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
        """Compiles every model for every bucket and starts its lanes; stops before the next once it is in vain."""
        for model in self.all():
            if is_in_vain():
                return
            model.engine.warm_up()
            model.batcher.start()
            log.info("model ready", model=model.name, digest=model.digest, executor=model.engine.executor_name)

    def get(self, name: str) -> ServedModel:
        """Returns a model; the default one for an empty name.

        Raises:
            NotFound: no model has the name.
            InvalidInput: none was named, and there is no default.
        """
        if not (name or self.default_name):
            raise InvalidInput(
                "`model` must be given: none of the models is the default.", reason="MODEL_AMBIGUOUS", field="model"
            )
        found = self._models.get(name or self.default_name)
        if found is None:
            raise NotFound.among("Model", name, self._models, reason="MODEL_NOT_FOUND", field="model")
        return found

    def get_for(self, task: Task, name: str) -> ServedModel:
        """Returns a model that does a task; for an empty name the default one, or else the only one that does it.

        Raises:
            NotFound: no model has the name, or none does the task.
            FailedPrecondition: the model does another task.
            InvalidInput: several do it, and none was named.
        """
        able = [model for model in self.all() if model.package.card.task == task]
        if not name and self._models.get(self.default_name) not in able:
            if not able:
                raise NotFound(f"No model for {task} is loaded.", reason="MODEL_NOT_FOUND", field="model")
            if len(able) > 1:
                names = ", ".join(f"`{model.name}`" for model in able)
                raise InvalidInput(
                    f"`model` must be given: {names} do {task}.", reason="MODEL_AMBIGUOUS", field="model"
                )
            return able[0]
        model = self.get(name)
        if model not in able:
            raise FailedPrecondition(
                f"Model `{model.name}` does {model.package.card.task}, not {task}.",
                reason="MODEL_TASK",
                field="model",
            )
        return model

    def with_digest(self, digest: str) -> ServedModel | None:
        """Returns the model of a digest, whatever its name; None if it is not loaded."""
        return next((model for model in self._models.values() if model.digest == digest), None)

    def all(self) -> list[ServedModel]:
        """Returns the models in the order of their names."""
        return list(self._models.values())

    def close(self) -> None:
        """Computes what waits and stops the lanes."""
        for model in self.all():
            model.batcher.close()


def _default_name(packages: dict[str, ModelPackage], config: ServerConfig) -> str:
    """Returns the name of the default model; empty where none was given, `base` is not served and several embed.

    Raises:
        PackageError: the one that was given is not among the packages.
    """
    given = config.default_model
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
    """Returns the packages to serve by name.

    Raises:
        PackageError: one can't be read, `models_dir` is no folder, or there is no model of a wanted name.
    """
    packages = {package.name: package for package in shipped_packages()}
    if config.models_dir is not None:
        packages |= {package.name: package for package in load_packages(config.models_dir)}
    wanted = [name.strip() for name in config.models.split(",") if name.strip()]
    for name in wanted:
        if name not in packages:
            raise PackageError(
                NotFound.among("Model", name, packages, reason="MODEL_NOT_FOUND").message, reason="MODEL_NOT_FOUND"
            )
    return {name: packages[name] for name in wanted} if wanted else packages
