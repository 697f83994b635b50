"""The command line against a server in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from twinsight_client.cli import main
from twinsight_client.cli.settings import Settings
from twinsight_client.testing import FakeClient, MemoryServer

Twinsight = Callable[..., Result]


@pytest.fixture
def memory() -> MemoryServer:
    return MemoryServer()


@pytest.fixture
def twinsight(memory: MemoryServer) -> Twinsight:
    """Runs `twinsight` with the given arguments."""

    def run(*arguments: object, input: str | None = None) -> Result:  # noqa: A002  # click's word
        settings = Settings(connect=lambda _settings, _retry: FakeClient(memory))
        return CliRunner().invoke(main, [str(one) for one in arguments], obj=settings, input=input)

    return run
