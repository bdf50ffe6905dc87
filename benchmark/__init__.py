"""The benchmark: networks, data, teacher, training loop, one cell, the grid of cells, run store, tracking, commands."""
