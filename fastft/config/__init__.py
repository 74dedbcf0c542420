"""What each command does: frozen dataclasses, their checks, recipes."""
