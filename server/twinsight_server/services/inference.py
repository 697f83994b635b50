"""Embed, EmbedStream, Compare, Classify and Detect.

All of them run a model on pictures and return a result for each:

1. The model is looked up by its name and the method's task, and the number of pictures is checked.
2. Each picture is read (`convert.requests`), decoded, batched and computed (`infer_pictures`).
3. Outcomes are counted; answers and errors become messages (`convert.answers`) in the order of the request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grpc
import numpy as np

from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight.v1 import inference_service_pb2_grpc as inference_grpc
from twinsight.v1 import types_pb2 as pb
from twinsight_core.comparison import Comparison, Decision, compare, decision_for
from twinsight_core.errors import InvalidInput, TwinsightError
from twinsight_core.models.tasks import Task
from twinsight_server.calls.call import Call, drop_tracebacks
from twinsight_server.calls.gate import Gate
from twinsight_server.convert import answers, requests
from twinsight_server.inference.models import Models, ServedModel
from twinsight_server.inference.pipeline import Picture, Pipeline
from twinsight_server.services.inputs import check_count, check_digest, check_size, infer_pictures, read_each
from twinsight_server.status import status_of


class InferenceService(inference_grpc.InferenceServiceServicer):
    """Runs the models; see inference_service.proto."""

    def __init__(
        self, gate: Gate, models: Models, pipeline: Pipeline, *, max_images: int, max_message_bytes: int
    ) -> None:
        self._gate = gate
        self._models = models
        self._pipeline = pipeline
        self._max_images = max_images
        self._max_message_bytes = max_message_bytes

    def Embed(self, request: inference_pb.EmbedRequest, context: grpc.ServicerContext) -> inference_pb.EmbedResponse:
        """Embeds pictures."""
        with self._gate.call(context, "Embed", items=len(request.images)) as call:
            model, results = self._embed(request.model, request.images, call)
            response = inference_pb.EmbedResponse(model=answers.model_reference(model.package), results=results)
            return check_size(response, self._max_message_bytes)

    def EmbedStream(
        self, request_iterator: Iterator[inference_pb.EmbedStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[inference_pb.EmbedStreamResponse]:
        """Embeds pictures message by message."""
        with self._gate.stream(context, "EmbedStream") as stream:
            for request in request_iterator:
                yield self._embed_message(request, stream)
                self._gate.answered(stream)

    def Compare(
        self, request: inference_pb.CompareRequest, context: grpc.ServicerContext
    ) -> inference_pb.CompareResponse:
        """Compares pairs; the pictures of both sides of all pairs share batches."""
        with self._gate.call(context, "Compare", items=2 * len(request.pairs)) as call:
            model = self._models.get_for("embedding", request.model)
            check_count(len(request.pairs), max(1, self._max_images // 2), field="pairs")
            check_digest(request.vector_model_digest, model.digest, of=f"model `{model.name}`")
            target_fmr = request.target_fmr if request.HasField("target_fmr") else None
            decision = decision_for(model.package.card.calibration, target_fmr)
            sides = [(name, side) for name in ("left", "right") for side in self._sides(request, name, model)]
            inputs: list[Picture | np.ndarray | TwinsightError] = [side for _, side in sides]
            vectors: list[np.ndarray | TwinsightError] = infer_pictures(
                inputs,
                lambda n: f"pairs[{n % len(request.pairs)}].{sides[n][0]}.image",
                pipeline=self._pipeline,
                model=model,
                call=call,
            )
            pairs = list(zip(vectors[: len(request.pairs)], vectors[len(request.pairs) :], strict=True))
            comparisons = _compare_each(pairs, model, decision)
            call.count(comparisons)
            response = inference_pb.CompareResponse(
                model=answers.model_reference(model.package), results=[_compare_result(one) for one in comparisons]
            )
            return check_size(response, self._max_message_bytes)

    def Classify(
        self, request: inference_pb.ClassifyRequest, context: grpc.ServicerContext
    ) -> inference_pb.ClassifyResponse:
        """Returns the most probable labels of pictures."""
        with self._gate.call(context, "Classify", items=len(request.images)) as call:
            top_k = requests.label_count(request)
            model, results = self._infer("classification", request.model, request.images, call)
            response = inference_pb.ClassifyResponse(
                model=answers.model_reference(model.package),
                results=[_classify_result(one, model, top_k) for one in results],
            )
            return check_size(response, self._max_message_bytes)

    def Detect(self, request: inference_pb.DetectRequest, context: grpc.ServicerContext) -> inference_pb.DetectResponse:
        """Returns the objects in pictures, with their boxes."""
        with self._gate.call(context, "Detect", items=len(request.images)) as call:
            limits = requests.detection_limits(request)
            model, results = self._infer("detection", request.model, request.images, call)
            response = inference_pb.DetectResponse(
                model=answers.model_reference(model.package),
                results=[_detect_result(one, model, limits) for one in results],
            )
            return check_size(response, self._max_message_bytes)

    def _embed_message(
        self, request: inference_pb.EmbedStreamRequest, stream: Call
    ) -> inference_pb.EmbedStreamResponse:
        try:
            with self._gate.message(stream, "EmbedStream", items=len(request.images)) as call:
                model, results = self._embed(request.model, request.images, call)
                reference = answers.model_reference(model.package)
                response = inference_pb.EmbedStreamResponse(model=reference, results=results)
                return check_size(response, self._max_message_bytes)
        except TwinsightError as error:
            drop_tracebacks(error)
            self._gate.check_stream(stream)
            return inference_pb.EmbedStreamResponse(error=status_of(error, request_id=stream.request_id))

    def _embed(
        self, name: str, images: Sequence[pb.Image], call: Call
    ) -> tuple[ServedModel, list[inference_pb.EmbedResult]]:
        model, results = self._infer("embedding", name, images, call)
        return model, [_embed_result(one) for one in results]

    def _infer(
        self, task: Task, name: str, images: Sequence[pb.Image], call: Call
    ) -> tuple[ServedModel, list[tuple[Picture, np.ndarray] | TwinsightError]]:
        """Runs the model of a name and task on pictures; returns it, and each picture with its answer or the error."""
        model = self._models.get_for(task, name)
        check_count(len(images), self._max_images, field="images")
        pictures = read_each(images, "images", requests.picture)
        results = infer_pictures(pictures, lambda n: f"images[{n}]", pipeline=self._pipeline, model=model, call=call)
        call.count(results)
        answered: list[tuple[Picture, np.ndarray] | TwinsightError] = []
        for picture, result in zip(pictures, results, strict=True):
            if isinstance(picture, TwinsightError):
                answered.append(picture)
            else:
                answered.append(result if isinstance(result, TwinsightError) else (picture, result))
        return model, answered

    def _sides(
        self, request: inference_pb.CompareRequest, name: str, model: ServedModel
    ) -> list[Picture | np.ndarray | TwinsightError]:
        def read(pair: inference_pb.ComparePair) -> Picture | np.ndarray:
            return _side(pair.left if name == "left" else pair.right, name, model)

        return read_each(request.pairs, "pairs", read)


def _side(side: inference_pb.CompareInput, name: str, model: ServedModel) -> Picture | np.ndarray:
    """Reads one side of a pair; its errors name the side."""
    try:
        match side.WhichOneof("input"):
            case "image":
                return requests.picture(side.image, field="image")
            case "vector":
                vector = requests.vector(side.vector, model.package.card.dimension)
                if not vector.any():
                    raise InvalidInput(
                        "`vector` must not be all zeros: it has no direction.", reason="VECTOR_INVALID", field="vector"
                    )
                return vector
            case _:
                raise InvalidInput(f"`{name}` must have `image` or `vector` set.", reason="INPUT_MISSING")
    except TwinsightError as error:
        raise error.under(name) from None


def _compare_each(
    pairs: Sequence[tuple[np.ndarray | TwinsightError, np.ndarray | TwinsightError]],
    model: ServedModel,
    decision: Decision | None,
) -> list[Comparison | TwinsightError]:
    """Compares the pairs whose sides are both valid; of a pair with two errors the left one is returned."""
    results: dict[int, Comparison | TwinsightError] = {}
    good: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for number, (left, right) in enumerate(pairs):
        if isinstance(left, TwinsightError):
            results[number] = left
        elif isinstance(right, TwinsightError):
            results[number] = right
        else:
            good[number] = (left, right)
    lefts, rights = [left for left, _ in good.values()], [right for _, right in good.values()]
    results |= zip(good, compare(lefts, rights, model.package.card.calibration, decision), strict=True)
    return [results[number] for number in range(len(pairs))]


def _embed_result(result: tuple[Picture, np.ndarray] | TwinsightError) -> inference_pb.EmbedResult:
    if isinstance(result, TwinsightError):
        return inference_pb.EmbedResult(error=status_of(result))
    _, vector = result
    return inference_pb.EmbedResult(embedding=answers.embedding_message(vector))


def _compare_result(result: Comparison | TwinsightError) -> inference_pb.CompareResult:
    if isinstance(result, TwinsightError):
        return inference_pb.CompareResult(error=status_of(result))
    return inference_pb.CompareResult(comparison=answers.comparison_message(result))


def _classify_result(
    result: tuple[Picture, np.ndarray] | TwinsightError, model: ServedModel, top_k: int
) -> inference_pb.ClassifyResult:
    if isinstance(result, TwinsightError):
        return inference_pb.ClassifyResult(error=status_of(result))
    _, probabilities = result
    labels = model.package.card.labels
    return inference_pb.ClassifyResult(
        classification=answers.classification_message(probabilities, labels, top_k=top_k)
    )


def _detect_result(
    result: tuple[Picture, np.ndarray] | TwinsightError, model: ServedModel, limits: requests.DetectionLimits
) -> inference_pb.DetectResult:
    if isinstance(result, TwinsightError):
        return inference_pb.DetectResult(error=status_of(result))
    picture, answer = result
    return inference_pb.DetectResult(detections=answers.detections_message(answer, model.package, picture, limits))
