"""One HTML page of what other commands found."""
