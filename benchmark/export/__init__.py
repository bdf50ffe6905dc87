"""Finished students for use elsewhere: safetensors, ONNX and a model card, in a folder of their own.

`benchmark.export.load(folder)` returns the network, ready to classify images.
"""

from benchmark.export.model import Classifier, load

__all__ = ["Classifier", "load"]
