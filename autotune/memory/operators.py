"""The operators that a step of the project's methods and families runs, and whether a GPU allocates otherwise for them.

Gone through one by one in torch 2.11 to 2.13. A test traces every family and method and fails at an operator that stands in
none of the three lists: look at its CUDA kernel, then enter it here and, where it differs, in docs/memory.md.
"""

from __future__ import annotations

# Allocate or keep otherwise on a GPU; translated by autotune.memory.cuda_ops.
TRANSLATED: dict[str, str] = {
    "scaled_dot_product_attention": "the kernel that the GPU would take, see autotune.memory.attention",
    "dropout": "native_dropout: a boolean mask, where a CPU keeps one of the activations' dtype",
    "native_dropout": "the mask is made first",
    "native_layer_norm": "mean and deviation in float32, also for half precision",
    "embedding_dense_backward": "over 3072 indices: sorted indices and partial sums (an upper bound)",
    "_foreach_norm": "partial sums of every 65536 numbers",
    "_softmax_backward_data": "the product of gradient and output",
    "sum, mean": "partial results where several blocks of threads work on one result",
    "mm, addmm, bmm, baddbmm": "cuBLAS' and cuBLASLt's workspaces at a thread's first product",
    "to": "a batch is copied to the device by each step",
}

# Take a buffer inside the kernel that depends on the GPU's number of processors or on a library's choice of algorithm. Not
# priced; the margin has to hold them.
INSIDE: dict[str, str] = {
    "amax": "partial results over the positions of a row",
    "argmax": "partial results over the vocabulary, a few for each row",
    "_native_batch_norm_legit_no_training": "mean and deviation of each channel, which a CPU does not keep",
    "convolution": "cuDNN's workspace, which for convolutional networks may be large; a margin learns it",
    "convolution_backward": "as of convolution",
    "cumsum": "partial sums of a scan over token ids",
    "index_put, index_put_": "sorted indices, one for each row of the batch (the pooled token's gradient)",
    "linalg_vector_norm": "partial sums, a few kB",
    "native_batch_norm": "mean and deviation of each channel, which a CPU does not keep in evaluation mode",
    "native_batch_norm_backward": "partial sums of each channel",
    "native_layer_norm_backward": "partial sums of the weight's and bias' gradients, width x blocks of rows",
}

# The same storages on both: elementwise results of their inputs' shape, views, copies, outputs whose shape is given.
ALIKE: frozenset[str] = frozenset(
    """
    _adaptive_avg_pool2d _foreach_add_ _foreach_mul_ _fused_adamw_ _log_softmax _log_softmax_backward_data _softmax
    _to_copy _unsafe_view abs adaptive_max_pool2d add add_ alias arange avg_pool2d bitwise_and
    bitwise_not bitwise_or cat ceil clamp clamp_min clone constant_pad_nd copy_ cos detach diagonal diagonal_backward div embedding
    empty empty_like eq exp expand fill_ flip full full_like gather ge gelu gelu_backward gt index le lift_fresh log lt masked_fill
    masked_fill_ max_pool2d_with_indices max_pool2d_with_indices_backward minimum mse_loss mse_loss_backward mul mul_
    native_dropout_backward ne neg new_empty new_empty_strided new_full new_ones new_zeros nll_loss2d_forward
    nll_loss_backward nll_loss_forward ones ones_like permute pow reciprocal relu relu_ repeat roll rsqrt rsub scalar_tensor
    scatter scatter_add scatter_add_ select select_backward sigmoid sigmoid_ sigmoid_backward sign silu silu_backward sin slice
    slice_backward split sqrt squeeze stack sub sub_ t tanh tanh_backward threshold_backward transpose tril triu unbind unsqueeze
    upsample_bilinear2d upsample_bilinear2d_backward view where zeros zeros_like
    """.split()  # noqa: SIM905 - a block of words reads better than a column of strings
)
