"""The command line with no more memory than it takes to start, and so many MB: of addresses."""

import mmap
import resource
import sys
from pathlib import Path

# What a command would load later, a library at a time.
import rich.table  # noqa: F401

import fastft.cli.commands
import fastft.cli.tables
import fastft.system.progress  # noqa: F401
from fastft.cli.main import main

if __name__ == "__main__":
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    limit = taken + int(float(sys.argv.pop(1)) * (1 << 20))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    main()
