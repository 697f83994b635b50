"""Access control: certificates, tokens, rights, limits and the audit log. See docs/security.md."""
