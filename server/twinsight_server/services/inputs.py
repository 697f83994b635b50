"""Reads and checks the inputs of a request, and runs a model on them; each input has its own result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from google.protobuf.message import Message

from twinsight_core.errors import FailedPrecondition, InvalidInput, TwinsightError
from twinsight_core.items import CollectionSpec, answer_too_large
from twinsight_server.calls.call import Call, drop_tracebacks
from twinsight_server.inference.models import Models, ServedModel
from twinsight_server.inference.pipeline import Picture, Pipeline

MessageT = TypeVar("MessageT")
ValueT = TypeVar("ValueT")
OtherT = TypeVar("OtherT")
ResponseT = TypeVar("ResponseT", bound=Message)


def read_each(
    messages: Sequence[MessageT], path: str, read: Callable[[MessageT], ValueT]
) -> list[ValueT | TwinsightError]:
    """Reads messages independently of each other.

    Args:
        messages: of a repeated field.
        path: the field's name; errors carry it with the message's index.
        read: may raise TwinsightError.

    Returns:
        What `read` returned or raised, in order.
    """
    results: list[ValueT | TwinsightError] = []
    for number, message in enumerate(messages):
        try:
            results.append(read(message))
        except TwinsightError as error:
            drop_tracebacks(error)
            results.append(error.under(f"{path}[{number}]"))
    return results


def infer_pictures(
    inputs: Sequence[Picture | OtherT],
    path: Callable[[int], str],
    *,
    pipeline: Pipeline,
    model: ServedModel,
    call: Call,
) -> list[np.ndarray | TwinsightError | OtherT]:
    """Runs a model on the pictures among the inputs, together; other inputs are returned unchanged.

    Args:
        inputs: in the request's order.
        path: returns the path of the n-th input's picture, for its errors.
        pipeline: decodes and computes.
        model: the model to run.
        call: the call that they belong to.

    Returns:
        For each picture the model's answer (`twinsight_core.models.tasks`) or its error, for other inputs themselves.
    """
    pictures = [one for one in inputs if isinstance(one, Picture)]
    if pictures:
        call.effect.model = model.name
    answers = iter(pipeline.infer(model, pictures, call))
    results: list[np.ndarray | TwinsightError | OtherT] = []
    for number, one in enumerate(inputs):
        if isinstance(one, Picture):
            answer = next(answers)
            if isinstance(answer, TwinsightError):
                drop_tracebacks(answer)
                answer = answer.under(path(number))
            results.append(answer)
        else:
            results.append(one)
    return results


def collection_vectors(
    spec: CollectionSpec,
    inputs: Sequence[Picture | OtherT],
    path: Callable[[int], str],
    *,
    pipeline: Pipeline,
    models: Models,
    call: Call,
) -> list[np.ndarray | TwinsightError | OtherT]:
    """Embeds the pictures among the inputs with the model of a collection; see `infer_pictures`.

    If the collection has no model, or its model is not loaded, that is the error of each picture.
    """
    if not any(isinstance(one, Picture) for one in inputs):
        return [one for one in inputs if not isinstance(one, Picture)]
    model = models.with_digest(spec.model_digest) if spec.model_digest else None
    if model is None:
        return [
            _no_model(spec).under(path(number)) if isinstance(one, Picture) else one
            for number, one in enumerate(inputs)
        ]
    return infer_pictures(inputs, path, pipeline=pipeline, model=model, call=call)


def check_count(count: int, most: int, *, field: str) -> None:
    """Checks the number of entries of a field.

    Raises:
        InvalidInput: there are none, or more than `most`.
    """
    if not 1 <= count <= most:
        raise InvalidInput(
            f"`{field}` has {count} entries; it must have 1 to {most}.", reason="COUNT_INVALID", field=field
        )


def check_size(response: ResponseT, most: int) -> ResponseT:
    """Returns the response if it has at most `most` bytes.

    Raises:
        AnswerTooLarge: it is larger; gRPC would reject it without saying why.
    """
    if response.ByteSize() > most:
        raise answer_too_large()
    return response


def check_digest(given: str, expected: str, *, of: str) -> None:
    """Checks that vectors were made by the model of those they are compared with.

    Args:
        given: the request's `vector_model_digest`; empty: not given.
        expected: digest of the model; empty: there is none.
        of: what the digest belongs to, for the message.

    Raises:
        FailedPrecondition: they differ.
    """
    if given and given != expected:
        bound = f"has digest `{expected}`" if expected else "is bound to no model"
        raise FailedPrecondition(
            f"`vector_model_digest` (=`{given[:80]}`) does not match: {of} {bound}, and only vectors of the same model "
            "can be compared.",
            reason="MODEL_MISMATCH",
            field="vector_model_digest",
        )


def _no_model(spec: CollectionSpec) -> TwinsightError:
    """Returns why a collection accepts no pictures."""
    if not spec.model_digest:
        return FailedPrecondition(
            f"Collection `{spec.id}` is bound to no model: it accepts vectors, not images.", reason="COLLECTION_UNBOUND"
        )
    return FailedPrecondition(
        f"Collection `{spec.id}` is bound to model `{spec.model_name}` with digest `{spec.model_digest}`, which is "
        "not loaded here; vectors of another model can't be compared with its own. Serve that model, or re-create the "
        "collection.",
        reason="MODEL_NOT_LOADED",
    )
