"""Health based on a real inference.

1. After warm-up a small test image goes through each model's batcher, and its result is remembered.
2. Every `interval_s` it goes through again, as a batch of its own, once the current batch is done. All services are
   healthy if the result arrives in time and is the same.
3. A watchdog checks every half second whether a model hangs. If so, health is off at once, until the test passes again.
   It stays off while as many turns hang as the model has lanes, or all these are lost, so that a supervisor restarts
   the server.
4. Draining turns health off for good. The watchdog goes on: calls that wait for a model that hangs are still answered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import structlog

from twinsight_core.errors import StartupError, TwinsightError
from twinsight_core.host.brief_threads import NO_THREADS, start_thread
from twinsight_core.models.tasks import Task
from twinsight_server.calls.call import Call
from twinsight_server.health.service import HealthService
from twinsight_server.inference.models import ServedModel
from twinsight_server.metrics import Metrics

log = structlog.stdlib.get_logger("twinsight.health")

_TIMEOUT_S = 5.0
"""A model that does not answer the test image within this plus the time of the longest batch is not healthy."""

_HUNG_S = 4.0
"""A batch hangs if the model has had it for longer than this, and for over twenty times as long as it should take."""

_HUNG_TIMES = 20
_WATCH_S = 0.5

_FIRST_TIMEOUT_S = 60.0
"""At start nobody waits yet, and how slow the models are is not known."""

_TOLERANCE = 1e-3
"""Largest difference of a component due to threads summing in another order; a wrong result differs by far more."""

_SCORE_TOLERANCE = 1e-2
"""The same for a detector's scores: a small change of a box may decide which of two overlapping boxes is kept."""


class Canary:
    """Tests the models periodically and sets the health service accordingly."""

    def __init__(self, models: Sequence[ServedModel], services: Sequence[str], metrics: Metrics) -> None:
        """Tests nothing yet: `learn` and then `start` must follow; until then health is NOT_SERVING.

        Args:
            models: the models to test.
            services: full names of the services whose health this is, besides the server's own ("").
            metrics: gets `healthy`.
        """
        self.service = HealthService(("", *services))
        self._models = models
        self._metrics = metrics
        self._expected: dict[str, np.ndarray] = {}
        self._full_batch_s: dict[str, float] = {}
        self._turn_s: dict[str, float] = {}
        self._stopped = threading.Event()
        self._drained = threading.Event()
        self._threads: list[threading.Thread] = []
        self._serving = False

    def learn(self) -> None:
        """Tests each model, and remembers its result and how long it takes.

        Raises:
            StartupError: a model fails, or its result does not fit its task.
        """
        for model in self._models:
            try:
                answer = self._infer(model, _FIRST_TIMEOUT_S)
                start = time.monotonic()
                self._infer(model, _FIRST_TIMEOUT_S)
                # A batch takes no longer than its images one by one.
                self._full_batch_s[model.name] = (time.monotonic() - start) * model.batcher.max_batch
            except Exception as error:
                raise StartupError(f"Model `{model.name}` failed on the test image.", reason="MODEL_BROKEN") from error
            if flaw := _flaw(answer, model.package.card.task):
                raise StartupError(f"Model `{model.name}` returned {flaw} for the test image.", reason="MODEL_BROKEN")
            self._expected[model.name] = answer

    def start(self, interval_s: float) -> None:
        """Turns health on and starts testing periodically.

        Raises:
            StartupError: no thread can be started.
        """
        try:
            self._threads.append(start_thread(partial(self._run, interval_s), name="canary"))
            self._threads.append(start_thread(self._watch, name="watchdog"))
        except RuntimeError as error:
            raise StartupError(NO_THREADS, reason="NO_THREADS") from error
        self._tell(serving=True)

    def stop(self) -> None:
        """Turns health off for good, without waiting for a test in progress; `join` must follow."""
        self._stopped.set()
        self.service.stop()
        self._metrics.healthy.set(0)

    def join(self) -> None:
        """Ends the watchdog and waits for a test in progress, which ends with the batchers at the latest."""
        self._drained.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> bool:
        """Tests every model now, sets health, and returns whether all passed."""
        sick: list[str] = []
        for model in self._models:
            if not self._is_well(model):
                sick.append(model.name)
                self._tell(serving=False)  # before the others are tested, which may take as long
        if (sick or not self._serving) and not self._stopped.is_set():
            log.log(40 if sick else 20, "health", serving=not sick, failing=sick)
        self._tell(serving=not sick)
        return not sick

    def _run(self, interval_s: float) -> None:
        while not self._stopped.wait(interval_s):
            try:
                self.check()
            except Exception:  # one failure must not end the tests
                log.exception("the health test failed")

    def _watch(self) -> None:
        while not self._drained.wait(_WATCH_S):
            try:
                self.watch()
            except Exception:  # one failure must not end the watchdog
                log.exception("the watchdog failed")

    def watch(self) -> None:
        """Gives up batches that hang, and turns health off if there are any."""
        for model in self._models:
            limit_s = max(_HUNG_S, _HUNG_TIMES * self._full_batch_s.get(model.name, 0.0))
            if model.batcher.give_up_hung(limit_s):
                self._tell(serving=False)

    def _is_well(self, model: ServedModel) -> bool:
        if model.batcher.is_broken:
            return False
        try:
            answer = self._infer(model, self._limit_s(model))
            return _is_same(answer, self._expected[model.name], model.package.card.task)
        except Exception:
            if not self._stopped.is_set():
                log.exception("the test inference failed", model=model.name)
            return False

    def _limit_s(self, model: ServedModel) -> float:
        """Returns how long the result may take, including the current batch, which is load and not a fault."""
        # Halved from test to test, so that a lane that hung once does not get that much time for ever.
        before_s = self._turn_s.get(model.name, 0.0) / 2
        turn_s = max(model.batcher.longest_turn_s(), before_s, self._full_batch_s.get(model.name, 0.0))
        self._turn_s[model.name] = turn_s
        return _TIMEOUT_S + turn_s

    def _infer(self, model: ServedModel, limit_s: float) -> np.ndarray:
        """Runs the test image; it is dropped if the model does not reach it within the limit."""
        to = model.package.card.preprocessing
        ramp = np.arange(to.height_px * to.width_px * 3, dtype=np.uint32) * 255 // (to.height_px * to.width_px * 3)
        picture = ramp.astype(np.uint8).reshape(to.height_px, to.width_px, 3)
        call = Call("canary", time.monotonic() + limit_s)
        answer = model.batcher.submit_urgent(picture, call).result(limit_s)
        if isinstance(answer, TwinsightError):
            raise answer
        return answer

    def _tell(self, *, serving: bool) -> None:
        if self._stopped.is_set():
            return
        self._serving = serving
        self._metrics.healthy.set(int(serving))
        self.service.tell(serving=serving)


def _is_same(answer: np.ndarray, expected: np.ndarray, task: Task) -> bool:
    """Whether a result is the expected one, up to the effects of summing in another order."""
    if task == "detection":
        # Rows are sorted by falling score: of two nearly equal scores either may come first.
        return bool(np.abs(np.sort(answer[:, 4]) - np.sort(expected[:, 4])).max() < _SCORE_TOLERANCE)
    return bool(np.abs(answer - expected).max() < _TOLERANCE)


def _flaw(answer: np.ndarray, task: Task) -> str | None:
    """Returns what is wrong with a result; None: nothing."""
    if not np.isfinite(answer).all():
        return "numbers that are not finite"
    if task == "embedding" and not abs(float(np.linalg.norm(answer)) - 1) < _TOLERANCE:
        return "a vector whose length is not 1"
    if task == "classification" and not abs(float(answer.sum()) - 1) < _TOLERANCE:
        return "probabilities that do not add up to 1"
    return None
