"""Executes what the plan draws beyond crop and mirror."""
