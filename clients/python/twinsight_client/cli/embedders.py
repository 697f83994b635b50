"""The model that a new collection is bound to if none is named."""

from __future__ import annotations

from twinsight_client.client import Client
from twinsight_client.errors import InvalidArgument, NotFound
from twinsight_client.model_cards import ModelTask


def default_embedder(client: Client) -> str:
    """Returns the name of the server's default model if that is an embedding model, else of its only one.

    Raises:
        InvalidArgument: there are several embedding models, and none is the default.
        NotFound: there is none.
        TwinsightClientError: the server rejected the call or can't be reached.
    """
    embedders = [card for card in client.list_models() if card.task is ModelTask.EMBEDDING]
    chosen = [card for card in embedders if card.is_default] or embedders
    if not chosen:
        raise NotFound("No model for embedding is loaded.", reason="MODEL_NOT_FOUND")
    if len(chosen) > 1:
        names = ", ".join(f"`{card.name}`" for card in chosen)
        raise InvalidArgument(f"--model is required; available for embedding: {names}.", reason="MODEL_AMBIGUOUS")
    return chosen[0].name
