"""All readers of files from elsewhere, by name."""

from hostile_beton import BETONS
from hostile_files import FILES
from hostile_left import LEFT
from hostile_runs import RUNS

TARGETS = {target.name: target for target in (*BETONS, *FILES, *RUNS, *LEFT)}
