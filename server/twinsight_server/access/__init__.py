"""Who may do what, and how much: certificates, tokens, rights, limits and the audit log. docs/security.md tells all."""
