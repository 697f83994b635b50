"""Health that follows a real inference.

1. After warm-up a small test picture goes through each model's batcher; its answer is remembered.
2. Every `interval_s` it goes through again. The health of all services follows whether the answer came in time and
   was the same.
3. Draining turns health off for good.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import structlog
from grpc_health.v1 import health, health_pb2

from twinsight_core.errors import StartupError
from twinsight_core.models.tasks import Task
from twinsight_server.calls import Call
from twinsight_server.metrics import Metrics
from twinsight_server.models import ServedModel

log = structlog.stdlib.get_logger("twinsight.health")

_TIMEOUT_S = 5.0
"""A queue that takes longer than this for one picture is not healthy."""

_TOLERANCE = 1e-3
"""Largest difference of a component that other batch sizes may bring; a wrong answer differs by far more."""


class Canary:
    """Tests the models again and again, and says so to the health service."""

    def __init__(self, models: Sequence[ServedModel], services: Sequence[str], metrics: Metrics) -> None:
        """Takes what to test; health is NOT_SERVING until `start`, before which comes `learn`.

        Args:
            models: each is tested.
            services: full names of the services whose health this is, besides the server's own ("").
            metrics: where `healthy` is shown.
        """
        self.servicer = health.HealthServicer(experimental_non_blocking=True)
        self._models = models
        self._services = ("", *services)
        self._metrics = metrics
        self._expected: dict[str, np.ndarray] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._serving = False
        for service in self._services:
            self.servicer.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)

    def learn(self) -> None:
        """Tests each model once and remembers what it answers.

        Raises:
            StartupError: a model does not answer as its task wants.
        """
        for model in self._models:
            try:
                answer = self._infer(model)
            except Exception as error:
                raise StartupError(f"Model `{model.name}` fails on the test picture.", reason="MODEL_BROKEN") from error
            if flaw := _flaw(answer, model.package.card.task):
                raise StartupError(f"Model `{model.name}` answers the test picture with {flaw}.", reason="MODEL_BROKEN")
            self._expected[model.name] = answer

    def start(self, interval_s: float) -> None:
        """Turns health on and goes on testing."""
        self._tell(serving=True)
        self._thread = threading.Thread(target=self._run, args=(interval_s,), name="canary", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Turns health off for good."""
        self._stopped.set()
        self.servicer.enter_graceful_shutdown()
        self._metrics.healthy.set(0)
        if self._thread:
            self._thread.join()

    def check(self) -> bool:
        """Tests every model now; returns whether all are well, and tells health."""
        sick = [model.name for model in self._models if not self._is_well(model)]
        if sick or not self._serving:
            log.log(40 if sick else 20, "health", serving=not sick, failing=sick)
        self._tell(serving=not sick)
        return not sick

    def _run(self, interval_s: float) -> None:
        while not self._stopped.wait(interval_s):
            self.check()

    def _is_well(self, model: ServedModel) -> bool:
        try:
            return bool(np.abs(self._infer(model) - self._expected[model.name]).max() < _TOLERANCE)
        except Exception:
            log.exception("the test inference failed", model=model.name)
            return False

    def _infer(self, model: ServedModel) -> np.ndarray:
        to = model.package.card.preprocessing
        ramp = np.arange(to.height_px * to.width_px * 3, dtype=np.uint32) * 255 // (to.height_px * to.width_px * 3)
        picture = ramp.astype(np.uint8).reshape(to.height_px, to.width_px, 3)
        return model.batcher.submit_urgent(picture, Call("canary", None)).result(_TIMEOUT_S)

    def _tell(self, *, serving: bool) -> None:
        if self._stopped.is_set():
            return
        self._serving = serving
        self._metrics.healthy.set(int(serving))
        state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in self._services:
            self.servicer.set(service, state)


def _flaw(answer: np.ndarray, task: Task) -> str | None:
    """Says what is wrong with an answer; None: nothing is."""
    if not np.isfinite(answer).all():
        return "numbers that are not finite"
    if task == "embedding" and not abs(float(np.linalg.norm(answer)) - 1) < _TOLERANCE:
        return "a vector that is not of length 1"
    if task == "classification" and not abs(float(answer.sum()) - 1) < _TOLERANCE:
        return "probabilities that do not add up to 1"
    return None
