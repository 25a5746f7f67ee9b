"""Any JAX function as a layer: `lift`."""

from funcprop.lifting.function import PerExample as PerExample
from funcprop.lifting.function import per_example as per_example
from funcprop.lifting.lifted import Lifted as Lifted
from funcprop.lifting.modules import as_equinox as as_equinox
from funcprop.lifting.modules import as_flax as as_flax
from funcprop.lifting.modules import as_nnx as as_nnx
from funcprop.lifting.primitives import Axes as Axes
from funcprop.lifting.primitives import Primitive as Primitive
from funcprop.lifting.primitives import register as register
from funcprop.lifting.tracing import lift as lift
from funcprop.lifting.weight import Place as Place
from funcprop.lifting.weight import Weight as Weight
