"""Health that follows a real inference.

1. After warm-up a small test picture goes through each model's batcher; its answer is remembered.
2. Every `interval_s` it goes through again, as a batch of its own, once the batch in compute is done. The health of all
   services follows whether the answer came in time and was the same.
3. A watchdog looks every half second whether a model hangs: then health is off at once, until the test passes again;
   and for as long as as many turns hang as the model has lanes, so that whoever watches health starts the server anew.
4. Draining turns health off for good.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import structlog

from twinsight_core.errors import StartupError, TwinsightError
from twinsight_core.models.tasks import Task
from twinsight_server.calls.call import Call
from twinsight_server.health.service import HealthService
from twinsight_server.inference.models import ServedModel
from twinsight_server.metrics import Metrics

log = structlog.stdlib.get_logger("twinsight.health")

_TIMEOUT_S = 5.0
"""A worker that does not come to one picture within this, and the time of the longest batch, is not healthy."""

_HUNG_S = 4.0
"""A batch that the model has had for longer, and for twenty times as long as it should, hangs."""

_HUNG_TIMES = 20
_WATCH_S = 0.5

_FIRST_TIMEOUT_S = 60.0
"""Nobody waits yet while the models learn, and how slow they are is not known."""

_TOLERANCE = 1e-3
"""Largest difference of a component that threads summing in another order bring; a wrong answer differs by far more."""

_SCORE_TOLERANCE = 1e-2
"""The same of a detector's scores: a small difference of a box may decide which of two overlapping ones is kept."""


class Canary:
    """Tests the models again and again, and says so to the health service."""

    def __init__(self, models: Sequence[ServedModel], services: Sequence[str], metrics: Metrics) -> None:
        """Takes what to test; health is NOT_SERVING until `start`, before which comes `learn`.

        Args:
            models: each is tested.
            services: full names of the services whose health this is, besides the server's own ("").
            metrics: where `healthy` is shown.
        """
        self.service = HealthService(("", *services))
        self._models = models
        self._metrics = metrics
        self._expected: dict[str, np.ndarray] = {}
        self._full_batch_s: dict[str, float] = {}
        self._turn_s: dict[str, float] = {}
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._serving = False

    def learn(self) -> None:
        """Tests each model, and remembers what it answers and how long it takes.

        Raises:
            StartupError: a model does not answer as its task wants.
        """
        for model in self._models:
            try:
                answer = self._infer(model, _FIRST_TIMEOUT_S)
                start = time.monotonic()
                self._infer(model, _FIRST_TIMEOUT_S)
                # A batch takes no longer than its pictures one by one.
                self._full_batch_s[model.name] = (time.monotonic() - start) * model.batcher.max_batch
            except Exception as error:
                raise StartupError(f"Model `{model.name}` fails on the test picture.", reason="MODEL_BROKEN") from error
            if flaw := _flaw(answer, model.package.card.task):
                raise StartupError(f"Model `{model.name}` answers the test picture with {flaw}.", reason="MODEL_BROKEN")
            self._expected[model.name] = answer

    def start(self, interval_s: float) -> None:
        """Turns health on and goes on testing."""
        self._tell(serving=True)
        self._threads = [
            threading.Thread(target=self._run, args=(interval_s,), name="canary", daemon=True),
            threading.Thread(target=self._watch, name="watchdog", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Turns health off for good; a test under way is not waited for."""
        self._stopped.set()
        self.service.stop()
        self._metrics.healthy.set(0)

    def join(self) -> None:
        """Waits, once stopped, for the test under way; it ends at the latest with the batchers."""
        for thread in self._threads:
            thread.join()

    def check(self) -> bool:
        """Tests every model now; returns whether all are well, and tells health."""
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
            self.check()

    def _watch(self) -> None:
        while not self._stopped.wait(_WATCH_S):
            try:
                self.watch()
            except Exception:  # a lane that could not be made anew must not end the watch
                log.exception("the watchdog failed")

    def watch(self) -> None:
        """Gives up what hangs, and tells health."""
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
        """How long the answer may take: a batch in compute is load and not sickness."""
        # Halved from test to test, so that a worker that hung once is not given as long for ever.
        before_s = self._turn_s.get(model.name, 0.0) / 2
        turn_s = max(model.batcher.longest_turn_s(), before_s, self._full_batch_s.get(model.name, 0.0))
        self._turn_s[model.name] = turn_s
        return _TIMEOUT_S + turn_s

    def _infer(self, model: ServedModel, limit_s: float) -> np.ndarray:
        """Runs the test picture; it is dropped where the model does not come to it within the limit."""
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
    """Whether an answer is the expected one, up to what summing in another order may change."""
    if task == "detection":
        # Rows go by falling score: of two that are nearly equal either may come first.
        return bool(np.abs(np.sort(answer[:, 4]) - np.sort(expected[:, 4])).max() < _SCORE_TOLERANCE)
    return bool(np.abs(answer - expected).max() < _TOLERANCE)


def _flaw(answer: np.ndarray, task: Task) -> str | None:
    """Says what is wrong with an answer; None: nothing is."""
    if not np.isfinite(answer).all():
        return "numbers that are not finite"
    if task == "embedding" and not abs(float(np.linalg.norm(answer)) - 1) < _TOLERANCE:
        return "a vector that is not of length 1"
    if task == "classification" and not abs(float(answer.sum()) - 1) < _TOLERANCE:
        return "probabilities that do not add up to 1"
    return None
