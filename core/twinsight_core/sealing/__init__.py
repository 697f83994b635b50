"""Seals what is kept on disk with AES-256-GCM (NIST SP 800-38D) and keys that are kept elsewhere."""
