"""Configuration: typed options, composition of `conf/` by Hydra, the key=value parser, methods' YAML files, pairs.

Only `method_files` and `compose` import torch, so that a table is made without it.
"""
