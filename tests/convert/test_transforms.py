"""Each transform reproduces the arithmetic of the torch module, and its inverse is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jax import lax

from checkpoints_convert import transforms


def draw(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


@pytest.mark.parametrize(
    ("transform", "shape"),
    [
        (transforms.IDENTITY, (5, 7)),
        (transforms.LINEAR, (5, 7)),
        (transforms.POINTWISE_CONV_1D, (5, 7, 1)),
        (transforms.POINTWISE_CONV_3D, (5, 7, 1, 1, 1)),
        (transforms.CONV_3D, (5, 7, 3, 2, 4)),
        (transforms.PATCH_CONV, (5, 3, 4, 4)),
    ],
)
def test_inverse_is_exact_and_shapes_agree(transform, shape):
    array = draw(*shape)
    param = transform.to_param(array)
    np.testing.assert_array_equal(transform.to_torch(param), array)
    assert transforms.torch_shape(transform, param.shape) == shape


def test_dense_kernels_multiply_from_the_right():
    x, weight = draw(4, 7), draw(5, 7)
    expected = F.linear(torch.from_numpy(x), torch.from_numpy(weight)).numpy()
    np.testing.assert_allclose(x @ transforms.LINEAR.to_param(weight), expected, atol=1e-5)
    conv = transforms.POINTWISE_CONV_3D.to_param(weight.reshape(5, 7, 1, 1, 1))
    np.testing.assert_allclose(x @ conv, expected, atol=1e-5)


def test_patch_rows_are_ordered_row_column_rgb():
    image, weight = draw(8, 12, 3), draw(5, 3, 4, 4)
    nchw = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
    expected = F.conv2d(nchw, torch.from_numpy(weight), stride=4)[0].permute(1, 2, 0).numpy()
    patches = image.reshape(2, 4, 3, 4, 3).transpose(0, 2, 1, 3, 4).reshape(2, 3, 48)
    actual = patches @ transforms.PATCH_CONV.to_param(weight)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_conv_kernel_is_time_height_width_in_out():
    x, weight = draw(1, 7, 4, 5, 6), draw(3, 7, 3, 3, 3)
    expected = F.conv3d(torch.from_numpy(x), torch.from_numpy(weight)).numpy()
    kernel = transforms.CONV_3D.to_param(weight)
    with jax.default_matmul_precision("float32"):
        actual = lax.conv_general_dilated(
            jnp.asarray(x.transpose(0, 2, 3, 4, 1)),
            jnp.asarray(kernel),
            window_strides=(1, 1, 1),
            padding="VALID",
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        )
    np.testing.assert_allclose(actual.transpose(0, 4, 1, 2, 3), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(3,), (130, 70), (2, 65, 3)])
def test_contiguous_copies_every_bit_of_a_view(shape):
    view = draw(*shape).T
    copy = transforms.contiguous(view)
    assert copy.flags.c_contiguous
    np.testing.assert_array_equal(copy, view)
