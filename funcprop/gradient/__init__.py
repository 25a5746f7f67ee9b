"""Gradients by hand and by JAX, of one signature: (params, batch, context) -> value, grads."""

from funcprop.gradient.automatic import Autodiff as Autodiff
from funcprop.gradient.automatic import Like as Like
from funcprop.gradient.automatic import as_function as as_function
from funcprop.gradient.automatic import autodiff as autodiff
from funcprop.gradient.functions import Aux as Aux
from funcprop.gradient.functions import GradientFunction as GradientFunction
from funcprop.gradient.functions import told as told
from funcprop.gradient.objectives import Backprop as Backprop
from funcprop.gradient.objectives import Objective as Objective
from funcprop.gradient.objectives import backprop as backprop
from funcprop.gradient.objectives import objective as objective
from funcprop.gradient.objectives import unpack as unpack
from funcprop.gradient.trees import check_gradients as check_gradients
from funcprop.gradient.trees import combine as combine
from funcprop.gradient.trees import partition as partition
from funcprop.gradient.trees import without_float0 as without_float0
from funcprop.gradient.trees import zeros_where_frozen as zeros_where_frozen
