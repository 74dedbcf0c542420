"""The folder of a run: checkpoints, metrics, curves."""
