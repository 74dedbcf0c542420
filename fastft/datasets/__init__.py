"""Data sets as files: fetched, made, inspected, shown."""
