"""The former place of `decode`, for scripts that import it from here: see `formats.encode`."""

from pipelines.formats.encode import decode

__all__ = ["decode"]
