"""Derivative rules of Jaxley."""

from __future__ import annotations

import numpy as np
from jaxley import solver_voltage

from rules_in_the_wild.call import Call

D = np.array([3.0, 2.5, 4.0, 3.5], np.float32)
L = np.array([0.0, 0.4, -0.2, 0.3], np.float32)
U = np.array([0.0, -0.5, 0.7, 0.2], np.float32)
B = np.array([0.7, -1.1, 0.3, 2.0], np.float32)
TREE = {  # compartments 1 and 3 hang on 0, and 2 on 1
    "node_order_grouped": [np.array([[1, 0]]), np.array([[3, 0]]), np.array([[2, 1]])],
    "all_children": [1, 3, 2],
    "all_parents": [0, 0, 1],
}


def solved(d, lower, upper, b):
    return solver_voltage._make_dhs_solve(TREE, False, 4)(d, lower, upper, b)


CALLS = [
    Call("jaxley.solver_voltage._make_dhs_solve._solve", solved, (D, L, U, B), changed=False),
]
