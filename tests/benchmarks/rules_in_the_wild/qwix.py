"""Derivative rules of Qwix."""

from __future__ import annotations

import numpy as np
from qwix._src.core import conv_general_qt, dot_general_qt

from rules_in_the_wild.call import Call

A = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
B = np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32)
IMAGE = np.random.default_rng(2).normal(size=(1, 5, 5, 2)).astype(np.float32)
KERNEL = np.random.default_rng(3).normal(size=(3, 3, 2, 3)).astype(np.float32)
GROUPS = np.array([1, 2], np.int32)
WHY = "a straight-through estimate: the function rounds to integers"
DOT = "qwix._src.core.dot_general_qt.dot_general_qt_fwd_bwd"
DIMENSIONS = (((1,), (0,)), ((), ()))


def dot(qtype):
    config = dot_general_qt.DotGeneralQtConfig(lhs_qtype=qtype, rhs_qtype=qtype)
    return lambda a, b: dot_general_qt.dot_general_qt(a, b, DIMENSIONS, config)


def conv(qtype):
    config = conv_general_qt.ConvGeneralQtConfig(lhs_qtype=qtype, rhs_qtype=qtype)
    return lambda x, w: conv_general_qt.conv_general_qt(
        x, w, config, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip


CALLS = [
    Call(DOT, dot(None), (A, B), note="nothing quantized"),
    Call(DOT, dot("int8"), (A, B), changed=False, note="int8", kind="convention", why=WHY),
    Call(
        "qwix._src.core.conv_general_qt.conv_general_qt",
        conv(None),
        (IMAGE, KERNEL),
        note="nothing quantized",
    ),
]
