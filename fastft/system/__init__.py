"""The machine, its processes and files, and how anything is shown."""
