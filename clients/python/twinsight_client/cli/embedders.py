"""The model that a new collection is bound to where none is named."""

from __future__ import annotations

from twinsight_client.client import Client
from twinsight_client.errors import InvalidArgument, NotFound
from twinsight_client.model_cards import ModelTask


def default_embedder(client: Client) -> str:
    """Returns the name of the server's default model where that embeds, else of its only one that does.

    Raises:
        InvalidArgument: several embed, and none of them is the default.
        NotFound: none does.
        TwinsightClientError: the server refused or can't be reached.
    """
    embedders = [card for card in client.list_models() if card.task is ModelTask.EMBEDDING]
    chosen = [card for card in embedders if card.is_default] or embedders
    if not chosen:
        raise NotFound("No model for embedding is loaded.", reason="MODEL_NOT_FOUND")
    if len(chosen) > 1:
        names = ", ".join(f"`{card.name}`" for card in chosen)
        raise InvalidArgument(f"--model must be given: {names} do embedding.", reason="MODEL_AMBIGUOUS")
    return chosen[0].name
