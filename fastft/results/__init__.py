"""Results of commands: read back from JSON, told as tables, drawn as charts."""
