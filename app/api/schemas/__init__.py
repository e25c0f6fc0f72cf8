"""The wire format, version 1."""
