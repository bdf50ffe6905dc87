"""Shapes on the meta device: those of torch on real tensors, for every form of the calls that have a rule."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmark.networks.meta import ShapesOnly

CALLS = {
    "convolution": lambda x: torch.conv2d(x, x.new_empty(5, 4, 3, 3), None, (2, 1), (1, 0), (1, 2), 1),
    "convolution_of_groups": lambda x: functional.conv2d(x, x.new_empty(6, 2, 3, 3), stride=2, groups=2),
    "convolution_with_padding_by_name": lambda x: functional.conv2d(x, x.new_empty(5, 4, 3, 3), padding="same"),
    "convolution_of_one_image": lambda x: functional.conv2d(x[0], x.new_empty(5, 4, 1, 1)),
    "linear": lambda x: functional.linear(x.flatten(1), x.new_empty(5, 4 * 13 * 9), x.new_empty(5)),
    "linear_on_maps": lambda x: functional.linear(x, x.new_empty(5, 9)),
    "linear_on_a_vector": lambda x: functional.linear(x[0, 0, 0], x.new_empty(5, 9)),
    "max_pool": lambda x: functional.max_pool2d(x, 3, 2, 1),
    "max_pool_of_a_layer": nn.MaxPool2d(3, 2, ceil_mode=True),
    "max_pool_with_indices": lambda x: functional.max_pool2d(x, 2, return_indices=True)[1],
    "max_pool_of_oblong_windows": lambda x: functional.max_pool2d(x, (3, 2)),
    "average_pool": lambda x: functional.avg_pool2d(x, 4),
    "average_pool_of_a_layer": nn.AvgPool2d(2, 2, 0, ceil_mode=True, count_include_pad=False),
    "average_pool_without_padded_zeros": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "sum": lambda x: x + x,
    "sum_with_broadcast": lambda x: x + x[:, :1],
    "mean": lambda x: x.mean((2, 3)),
    "mean_with_sides_kept": lambda x: x.mean((2, 3), keepdim=True),
    "mean_of_last_sides": lambda x: x.mean((-2, -1)),
    "mean_of_one_side": lambda x: x.mean(1),
    "mean_of_all": lambda x: x.mean(),
    "concatenation": lambda x: torch.cat([x, x[:, :1]], 1),
    "concatenation_by_last_side": lambda x: torch.cat([x, x[..., :3]], dim=-1),
    "concatenation_of_images": lambda x: torch.cat((x, x)),
    "batch_norm_by_keyword": lambda x: functional.batch_norm(
        input=x, running_mean=None, running_var=None, training=True
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_shapes_are_those_of_torch(name):
    call = CALLS[name]
    expected = call(torch.zeros(3, 4, 13, 9))
    with torch.device("meta"), ShapesOnly():
        result = call(torch.empty(3, 4, 13, 9))
    assert result.shape == expected.shape and result.dtype == expected.dtype and result.device.type == "meta"


@pytest.mark.parametrize(
    "call",
    [
        lambda x: functional.conv2d(x, x.new_empty(5, 3, 3, 3)),  # of 3 channels, on 4
        lambda x: functional.conv2d(x, x.new_empty(5, 4, 15, 15)),  # larger than the map
        lambda x: functional.max_pool2d(x, 20),
        lambda x: functional.linear(x, x.new_empty(5, 8)),  # of 8 features, on 9
        lambda x: torch.cat([x, x[:, :, 1:]], 1),
    ],
)
def test_a_call_that_torch_rejects_is_rejected(call):
    with torch.device("meta"), ShapesOnly(), pytest.raises(RuntimeError):
        call(torch.empty(3, 4, 13, 9))
