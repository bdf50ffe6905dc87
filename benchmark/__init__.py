"""The engine: configuration, data, networks, teacher, training, run folders, the grid of runs, and the commands."""
