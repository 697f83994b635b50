"""The inputs of a request, each read, checked and put through a model on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from google.protobuf.message import Message

from twinsight_core.errors import FailedPrecondition, InvalidInput, TwinsightError
from twinsight_core.items import CollectionSpec, answer_too_large
from twinsight_server.calls.call import Call
from twinsight_server.inference.models import Models, ServedModel
from twinsight_server.inference.pipeline import Picture, Pipeline

MessageT = TypeVar("MessageT")
ValueT = TypeVar("ValueT")
OtherT = TypeVar("OtherT")
ResponseT = TypeVar("ResponseT", bound=Message)


def read_each(
    messages: Sequence[MessageT], path: str, read: Callable[[MessageT], ValueT]
) -> list[ValueT | TwinsightError]:
    """Reads messages each on its own.

    Args:
        messages: of a repeated field.
        path: the field's name, which errors carry with the message's number.
        read: may raise TwinsightError.

    Returns:
        What `read` returned or raised, in order.
    """
    results: list[ValueT | TwinsightError] = []
    for number, message in enumerate(messages):
        try:
            results.append(read(message))
        except TwinsightError as error:
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
    """Runs a model on the pictures among the inputs, together; what is none passes through.

    Args:
        inputs: in the request's order.
        path: path of the n-th input's picture, for its errors.
        pipeline: decodes and computes.
        model: runs on them.
        call: whose they are.

    Returns:
        For each input the model's answer (`twinsight_core.models.tasks`), or why there is none.
    """
    pictures = [one for one in inputs if isinstance(one, Picture)]
    if pictures:
        call.effect.model = model.name
    answers = iter(pipeline.infer(model, pictures, call))
    results: list[np.ndarray | TwinsightError | OtherT] = []
    for number, one in enumerate(inputs):
        if isinstance(one, Picture):
            answer = next(answers)
            results.append(answer.under(path(number)) if isinstance(answer, TwinsightError) else answer)
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

    Where the collection's model is not loaded, or there is none, each picture has that for its error.
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
    """Checks how many things a request has.

    Raises:
        InvalidInput: none, or more than `most`.
    """
    if not 1 <= count <= most:
        raise InvalidInput(
            f"`{field}` has {count} entries; it must have 1 to {most}.", reason="COUNT_INVALID", field=field
        )


def check_size(response: ResponseT, most: int) -> ResponseT:
    """Returns a response that may hold large contents.

    Raises:
        AnswerTooLarge: it has more than `most` bytes; gRPC would refuse it without saying why.
    """
    if response.ByteSize() > most:
        raise answer_too_large()
    return response


def check_digest(given: str, expected: str, *, of: str) -> None:
    """Checks that vectors were made by the model they are compared under.

    Args:
        given: the request's `vector_model_digest`; empty: not said.
        expected: digest of the model; empty: none.
        of: what the digest belongs to, for the message.

    Raises:
        FailedPrecondition: they differ.
    """
    if given and given != expected:
        bound = f"has digest `{expected}`" if expected else "is bound to no model"
        raise FailedPrecondition(
            f"`vector_model_digest` (=`{given[:80]}`) is another model's: {of} {bound}, "
            "and vectors compare only under one model.",
            reason="MODEL_MISMATCH",
            field="vector_model_digest",
        )


def _no_model(spec: CollectionSpec) -> TwinsightError:
    """Why a collection takes no pictures."""
    if not spec.model_digest:
        return FailedPrecondition(
            f"Collection `{spec.id}` is bound to no model: it takes vectors, not images.", reason="COLLECTION_UNBOUND"
        )
    return FailedPrecondition(
        f"Collection `{spec.id}` is bound to model `{spec.model_name}` with digest `{spec.model_digest}`, which is "
        "not loaded here: its vectors can't be compared with another model's. Serve that model, or make the collection "
        "anew.",
        reason="MODEL_NOT_LOADED",
    )
