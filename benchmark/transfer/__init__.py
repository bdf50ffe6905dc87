"""Linear probes: how well the features of a frozen, finished student serve other data sets."""
