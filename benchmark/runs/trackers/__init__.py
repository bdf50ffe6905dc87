"""Trackers: Weights & Biases, TensorBoard, trackio. Each run is recorded by a process of its own (`worker`).

The process reads the run's metrics.jsonl, from its first line, so training never waits for a tracker and cannot be hurt
by one. `benchmark.runs.tracking` starts these processes and gives up on those that fail.
"""
