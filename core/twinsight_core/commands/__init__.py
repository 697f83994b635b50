"""Commands of the command line that work on models and need no server."""
