"""Token-mixing operators: each one public function, held equal to its naive recurrence by tests.

A folder an operator: `naive.py` is the definition, `README.md` the maths; linear attention and the delta rules
share one fast form, `recurrence/`.
Shapes: B batch, L length, H heads, K key dimension, V value dimension, D channels.
"""

from asiarch.kernels.cross_entropy import fused_linear_cross_entropy
from asiarch.kernels.delta_rule import delta_rule
from asiarch.kernels.gated_delta_rule import gated_delta_rule
from asiarch.kernels.linear_attention import linear_attention
from asiarch.kernels.normalization import gated_rms_norm, l2_norm, rms_norm
from asiarch.kernels.short_convolution import short_convolution
from asiarch.kernels.sliding_window_attention import sliding_window_attention

__all__ = [
    "delta_rule",
    "fused_linear_cross_entropy",
    "gated_delta_rule",
    "gated_rms_norm",
    "l2_norm",
    "linear_attention",
    "rms_norm",
    "short_convolution",
    "sliding_window_attention",
]
