"""Data sets, splits, augmentation and the loader of training batches."""
