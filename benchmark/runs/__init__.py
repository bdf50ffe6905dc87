"""The run folder: its files, the record of a run, weights, and tracking."""
