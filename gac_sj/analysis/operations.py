"""What PyTorch's operations multiply: what :mod:`gac_sj.analysis.products` counts, and what it cannot.

An operation is one of four: its products are counted as they are (``mul``, ``convolution`` and :data:`CONTRACTIONS`);
it is *defined* by operations that are counted (:data:`DEFINITIONS`); it does not multiply (:data:`FREE`, and all
views); or it is unknown, and then the result names it. Names are those of ``torch.ops.aten`` without underscores at
either end, so an operation and its in-place form are one; operations of other libraries have their library's name in
front.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

__all__ = ["CONTRACTIONS", "COUNTED", "DEFINITIONS", "FREE", "is_view", "name_of"]

aten = torch.ops.aten

#: Matrix products, and the index of their first factor among the arguments.
CONTRACTIONS = {"mm": 0, "bmm": 0, "addmm": 1, "addmm_activation": 1, "baddbmm": 1, "addbmm": 1}

#: Sums, comparisons and choices.
_SUMS = """
add sub rsub neg abs sign sgn sum nansum cumsum mean trace logical_and logical_or logical_xor logical_not and or xor
bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift lshift rshift eq ne lt le gt ge
equal allclose isclose isnan isinf isposinf isneginf isin all any signbit max min amax amin aminmax maximum minimum
fmax fmin argmax argmin cummax cummin cummax_helper cummin_helper median nanmedian mode kthvalue topk sort unique
unique2 unique_dim unique_consecutive unique_dim_consecutive searchsorted bucketize count_nonzero nonzero
nonzero_static bincount histc where clamp clamp_min clamp_max round floor ceil trunc frac nan_to_num copysign
heaviside relu hardtanh hardshrink softshrink threshold avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices
max_pool3d_with_indices fractional_max_pool2d fractional_max_pool3d
"""
#: Copies, new tensors and random numbers.
_COPIES = """
clone copy to_copy detach squeeze unsqueeze transpose t as_strided pin_memory assert_async assert_tensor_metadata
resize_as geometric binomial lift lift_fresh fill zero set resize local_scalar_dense scalar_tensor is_same_size
empty_like full_like zeros_like ones_like new_empty new_empty_strided new_full new_zeros new_ones cat stack block_diag
repeat repeat_interleave roll flip rot90 tril triu diag_embed masked_fill masked_scatter masked_select gather
scatter_add index index_add index_copy index_fill index_put index_put_impl index_select take put unsafe_index
unsafe_index_put embedding select_scatter slice_scatter diagonal_scatter im2col col2im constant_pad_nd
reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d pixel_shuffle
pixel_unshuffle channel_shuffle native_channel_shuffle max_unpool2d max_unpool3d unsafe_view unsafe_split
unsafe_split_with_sizes pack_padded_sequence complex upsample_nearest1d upsample_nearest2d upsample_nearest3d
upsample_nearest_exact1d upsample_nearest_exact2d upsample_nearest_exact3d bernoulli uniform normal exponential random
linalg_check_errors to_dense to_sparse to_sparse_csr rand_like randn_like randint_like multinomial poisson
gac_sj::encode_pixels
"""
#: By convention: functions of single numbers, softmax, and what folds into a convolution.
_FUNCTIONS = """
exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh
erf erfc erfinv sigmoid hardsigmoid log_sigmoid_forward logit softplus elu celu leaky_relu rrelu_with_noise softmax
log_softmax safe_softmax masked_softmax logsumexp logaddexp logaddexp2 logcumsumexp lgamma digamma
native_batch_norm_legit_no_training
"""
#: Operations that multiply nothing, or only by a number, and those that do not count by convention.
FREE = frozenset(f"{_SUMS} {_COPIES} {_FUNCTIONS}".split())


def name_of(operation: OpOverload) -> str:
    """The name of an operation in this module's tables."""
    library, _, name = operation._schema.name.partition("::")
    return name.strip("_") if library == "aten" else f"{library}::{name}"


def is_view(operation: OpOverload) -> bool:
    """Whether an operation only returns views of its inputs."""
    aliases = [returned.alias_info for returned in operation._schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


# Definitions take aten's arguments, by name where there are many. They run the same products as operations that are
# counted, and return False where they cannot; what they compute is dropped.


def _matrix_vector(matrix: Tensor, vector: Tensor) -> None:
    matrix @ vector.unsqueeze(1)


def _divide(x: Tensor, y: Tensor | float) -> None:
    if isinstance(y, Tensor):
        x * y.reciprocal()


def _pow(self: Any, exponent: Any, **_: Any) -> bool:
    """PyTorch multiplies for 2, 3 and -2; other powers by a number, or of a number, are functions of single numbers."""
    if isinstance(self, Tensor) and isinstance(exponent, Tensor):
        return False
    if isinstance(self, Tensor) and exponent in (2, 3, -2):
        product = self
        for _factor in range(abs(int(exponent)) - 1):
            product = product * self
    return True


def _norm(self: Tensor, ord: float = 2.0, p: float | None = None, **_: Any) -> bool:
    power = ord if p is None else p
    if power == 2:
        self * self
    return power in (0, 1, 2, math.inf, -math.inf)


def _distances(x1: Tensor, x2: Tensor, p: float = 2.0, **_: Any) -> bool:
    return _norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p)


def _deviations(self: Tensor, dim: Sequence[int] | None = None, **_: Any) -> None:
    deviations = self - self.mean(tuple(dim) if dim else None, keepdim=True)
    deviations * deviations


def _normalise(x: Tensor, dims: tuple[int, ...], weight: Tensor | None, centre: bool = True) -> None:
    deviations = x - x.mean(dims, keepdim=True) if centre else x
    normalised = deviations * (deviations * deviations).mean(dims, keepdim=True).rsqrt()
    if weight is not None:
        normalised * weight


def _layer_norm(centre: bool) -> Callable[..., None]:
    def norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, **_: Any) -> None:
        _normalise(input, tuple(range(-len(normalized_shape), 0)), weight, centre)

    return norm


def _group_norm(input: Tensor, weight: Tensor | None, group: int, **_: Any) -> None:
    groups = input.unflatten(1, (group, -1))
    by_channel = None if weight is None else weight.view(group, -1, *[1] * (input.dim() - 2))
    _normalise(groups, tuple(range(2, groups.dim())), by_channel)


def _batch_norm(input: Tensor, weight: Tensor | None, training: bool = True, **_: Any) -> None:
    """Statistics of the input, as InstanceNorm has them, do not fold into a convolution."""
    if training:
        by_channel = None if weight is None else weight.view(-1, *[1] * (input.dim() - 2))
        _normalise(input, (0, *range(2, input.dim())), by_channel)


def _bilinear(i1: Tensor, i2: Tensor, i3: Tensor, **dims: Any) -> bool:
    """``sum_ij x_i W_oij y_j``: first over i, then over j."""
    given = [list(dims[name]) for name in ("expand1", "expand2", "expand3", "sumdim")]
    if given != [[1, 3], [0], [1, 2], [2, 3]]:
        return False
    over_i = torch.bmm(i1.expand(len(i2), -1, -1), i2)  # [O, N, J]
    torch.bmm(over_i.transpose(0, 1), i3.unsqueeze(2))
    return True


def _attention(query: Tensor, key: Tensor, value: Tensor, is_causal: bool = False, **further: Any) -> None:
    mask = further.get("attn_mask", further.get("attn_bias"))
    aten._scaled_dot_product_attention_math(query, key, value, mask, 0.0, is_causal, scale=further.get("scale"))


def _lstm_layer(input: Tensor, hx_: Tensor, cx_: Tensor, reverse: bool, has_biases: bool, **weights: Any) -> None:
    of_input, of_state = weights["weight0"].t(), weights["weight1"].t()
    biases = (weights["weight2"], weights["weight3"]) if has_biases else ()
    h, c = hx_.view(hx_.shape[-2:]), cx_.view(cx_.shape[-2:])  # PyTorch's own decomposition keeps a dimension of 1
    for x in input.flip(0) if reverse else input:
        h, c = _lstm_cell(x @ of_input, h @ of_state, c, *biases)


def _recurrent(input: Tensor, weight: list[Tensor], weight_stride0: int, hx: Tensor, cx: Any, **further: Any) -> None:
    layers = (aten.rnn_relu, aten.rnn_tanh, aten.lstm, aten.gru)[further["mode"]]
    states = [hx, cx] if layers is aten.lstm else hx
    options = weight_stride0 > 3, further["num_layers"], 0.0, False, further["bidirectional"]
    with torch.backends.cudnn.flags(enabled=False):
        if further["batch_sizes"]:
            layers.data(input, torch.tensor(further["batch_sizes"]), states, weight, *options)
        else:
            layers.input(input, states, weight, *options, further["batch_first"])


def _lstm_cell(
    input_gates: Tensor,
    hidden_gates: Tensor,
    cx: Tensor,
    input_bias: Tensor | float = 0.0,
    hidden_bias: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor]:
    i, f, g, o = (input_gates + input_bias + hidden_gates + hidden_bias).chunk(4, 1)
    c = f.sigmoid() * cx + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru_cell(
    input_gates: Tensor,
    hidden_gates: Tensor,
    hx: Tensor,
    input_bias: Tensor | float = 0.0,
    hidden_bias: Tensor | float = 0.0,
) -> None:
    r, z, n = (input_gates + input_bias).chunk(3, 1)
    hidden_r, hidden_z, hidden_n = (hidden_gates + hidden_bias).chunk(3, 1)
    new = (n + (r + hidden_r).sigmoid() * hidden_n).tanh()
    (hx - new) * (z + hidden_z).sigmoid()


#: Operations that consist of products, and those products.
DEFINITIONS: dict[str, Callable[..., Any]] = {
    # products of vectors
    "mv": lambda self, vec, **_: _matrix_vector(self, vec),
    "addmv": lambda self, mat, vec, **_: _matrix_vector(mat, vec),
    "dot": lambda self, tensor, **_: _matrix_vector(self.unsqueeze(0), tensor),
    "vdot": lambda self, other, **_: _matrix_vector(self.unsqueeze(0), other),
    "addr": lambda self, vec1, vec2, **_: vec1.unsqueeze(1) * vec2,
    "trilinear": _bilinear,
    # products of elements
    "addcmul": lambda self, tensor1, tensor2, **_: tensor1 * tensor2,
    "addcdiv": lambda self, tensor1, tensor2, **_: _divide(tensor1, tensor2),
    "div": lambda self, other, **_: _divide(self, other),
    "floor_divide": lambda self, other, **_: _divide(self, other),
    "lerp": lambda self, end, weight, **_: (end - self) * weight,
    "pow": _pow,
    "glu": lambda self, dim=-1, **_: self.chunk(2, dim)[0] * self.chunk(2, dim)[1].sigmoid(),
    "silu": lambda self, **_: self * self.sigmoid(),
    "gelu": lambda self, **_: self * self.sigmoid(),
    "mish": lambda self, **_: self * self.sigmoid(),
    "hardswish": lambda self, **_: self * nn.functional.hardsigmoid(self),
    "prelu_kernel": lambda self, weight, **_: self.clamp_max(0) * weight,
    "native_dropout": lambda input, train=True, **_: None if train is False else input * input,  # of GPUs; by a mask
    # squares
    "linalg_vector_norm": _norm,
    "norm": _norm,
    "cdist_forward": _distances,
    "euclidean_dist": _distances,
    **dict.fromkeys(("var", "var_mean", "std", "std_mean"), _deviations),
    "native_layer_norm": _layer_norm(centre=True),
    "fused_rms_norm": _layer_norm(centre=False),
    "native_group_norm": _group_norm,
    **dict.fromkeys(("native_batch_norm", "native_batch_norm_legit", "cudnn_batch_norm"), _batch_norm),
    # whole layers
    **{f"scaled_dot_product_{kind}": _attention for kind in (
        "flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention"
    )},
    "mkldnn_rnn_layer": _lstm_layer,
    "cudnn_rnn": _recurrent,
    "thnn_fused_lstm_cell": _lstm_cell,
    "thnn_fused_gru_cell": _gru_cell,
    # free with some arguments
    "scatter": lambda reduce="add", **_: reduce == "add",
    "scatter_reduce": lambda reduce, **_: reduce != "prod",
    "embedding_bag": lambda per_sample_weights=None, **_: per_sample_weights is None,
    "embedding_bag_forward_only": lambda per_sample_weights=None, **_: per_sample_weights is None,
    "remainder": lambda other, **_: not isinstance(other, Tensor),
    "fmod": lambda other, **_: not isinstance(other, Tensor),
}  # fmt: skip
#: All operations whose products are counted.
COUNTED = {"mul", "convolution", *CONTRACTIONS, *DEFINITIONS}
