"""Settings of each command: frozen dataclasses, their checks, recipes."""
