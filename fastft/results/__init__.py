"""What commands found: read back from JSON, told as tables, drawn as charts."""
