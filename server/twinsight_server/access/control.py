"""All that the gate needs for access control: authentication, rights, limits and the audit log."""

from __future__ import annotations

from dataclasses import dataclass, field

from twinsight_server.access.audit import AuditLog
from twinsight_server.access.exposure import warn_of_exposed
from twinsight_server.access.guard import Guard, JwtSettings
from twinsight_server.access.limits import Limiter
from twinsight_server.access.principals import Share
from twinsight_server.config import ServerConfig


@dataclass(frozen=True)
class AccessControl:
    """Access to one server; without arguments, everyone may do everything.

    Attributes:
        guard: identifies callers and checks their rights.
        limiter: limits callers to their share.
        audit: the audit log; None: disabled.
    """

    guard: Guard = field(default_factory=Guard)
    limiter: Limiter = field(default_factory=lambda: Limiter(Share(), Share(0, 0, 0, 0)))
    audit: AuditLog | None = None

    def close(self) -> None:
        """Closes the audit log, if there is one."""
        if self.audit:
            self.audit.close()

    @classmethod
    def of(cls, config: ServerConfig) -> AccessControl:
        """Returns the access control of some settings, and warns of files with too open permissions.

        Raises:
            StartupError: a file of keys can't be used, or the audit log can't be written.
        """
        tokens = JwtSettings(config.jwt_secret, config.jwt_public_keys, config.jwt_issuer, config.jwt_audience)
        guard = Guard(keys=config.api_keys, tokens=tokens if tokens.secret or tokens.public_keys else None)
        each = Share(
            config.calls_per_s_per_key,
            config.items_per_s_per_key,
            config.max_calls_per_key,
            config.max_streams_per_key,
        )
        warn_of_exposed(config)
        limiter = Limiter(
            Share(config.calls_per_s, config.items_per_s), each, most_items=max(config.max_images, config.max_items)
        )
        return cls(guard, limiter, AuditLog(config.audit_log) if config.audit_log else None)
