"""The --filter option: JSON as in `twinsight_client.filters`."""

from __future__ import annotations

import click

from twinsight_client.errors import InvalidArgument
from twinsight_client.filters import Filter, filter_from_json


def filter_given(condition: str | None) -> Filter | None:
    """Returns the filter of a --filter; None if there is none.

    Raises:
        click.BadParameter: it is not a valid filter.
    """
    if condition is None:
        return None
    try:
        return filter_from_json(condition)
    except InvalidArgument as error:
        raise click.BadParameter(error.message, param_hint="--filter") from error
