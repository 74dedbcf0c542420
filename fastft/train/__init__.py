"""The training of one model: inputs, loop, step, resume."""
