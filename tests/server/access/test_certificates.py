"""When the server's certificate expires."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from structlog.testing import capture_logs

from twinsight_server.access.tls import Certificates
from twinsight_server.metrics import CollectionCounts, Metrics


def written(folder: Path, left: timedelta) -> tuple[Path, Path, datetime]:
    """A certificate with so much time left, its key, and when it expires."""
    not_after = (datetime.now(UTC) + left).replace(microsecond=0)
    issued = trustme.CA().issue_cert("localhost", not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=not_after)
    chain, key = folder / "server.pem", folder / "server.key"
    chain.write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    return chain, key, not_after


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (timedelta(hours=-1), ["certificate has expired; clients reject it"]),
        (timedelta(days=6), ["certificate expires soon"]),
        (timedelta(days=8), []),
    ],
)
def test_a_certificate_that_clients_refuse_or_soon_will_is_told(
    tmp_path: Path, left: timedelta, said: list[str]
) -> None:
    chain, key, not_after = written(tmp_path, left)
    with capture_logs() as lines:
        made = Certificates(chain, key, None)
    assert [one["event"] for one in lines] == said
    assert made.end_s() == not_after.timestamp()


def test_metrics_tell_when_the_certificate_in_the_file_expires(tmp_path: Path) -> None:
    chain, key, first = written(tmp_path, timedelta(days=30))
    made, metrics = Certificates(chain, key, None), Metrics()
    metrics.watch(
        compilations=lambda: 0,
        collections=lambda: CollectionCounts({}, 0, 0),
        certificate_end_s=made.end_s,
    )
    value = metrics.registry.get_sample_value
    assert value("twinsight_certificate_not_after_seconds") == first.timestamp()
    *_, second = written(tmp_path, timedelta(days=60))
    assert value("twinsight_certificate_not_after_seconds") == second.timestamp()
    with capture_logs() as lines:
        assert made.changed() is not None
        written(tmp_path, timedelta(days=-1))
        assert made.changed() is not None
    assert [one["event"] for one in lines if one["log_level"] == "warning"] == [
        "certificate has expired; clients reject it"
    ]
