"""Any layer as a module of Flax or of Equinox: `as_flax`, `as_nnx` and `as_equinox`."""

from funcprop.lifting.modules.equinox_module import as_equinox as as_equinox
from funcprop.lifting.modules.linen_module import as_flax as as_flax
from funcprop.lifting.modules.nnx_module import as_nnx as as_nnx
