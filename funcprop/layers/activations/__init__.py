"""Activations: z -> a, and da -> dz = da · σ′(z), one family a file.

Each keeps its output a where the derivative can be written with it, since the next layer keeps a
as well; those that are not monotone keep z.
"""

from funcprop.layers.activations.activation import Activation as Activation
from funcprop.layers.activations.bounded import HardSigmoid as HardSigmoid
from funcprop.layers.activations.bounded import HardTanh as HardTanh
from funcprop.layers.activations.bounded import ReLU6 as ReLU6
from funcprop.layers.activations.bounded import Sigmoid as Sigmoid
from funcprop.layers.activations.bounded import Softsign as Softsign
from funcprop.layers.activations.bounded import Tanh as Tanh
from funcprop.layers.activations.exponential import CELU as CELU
from funcprop.layers.activations.exponential import ELU as ELU
from funcprop.layers.activations.exponential import SELU as SELU
from funcprop.layers.activations.exponential import SELU_ALPHA as SELU_ALPHA
from funcprop.layers.activations.exponential import SELU_SCALE as SELU_SCALE
from funcprop.layers.activations.exponential import LogSigmoid as LogSigmoid
from funcprop.layers.activations.exponential import Softplus as Softplus
from funcprop.layers.activations.gated import GELU as GELU
from funcprop.layers.activations.gated import GELUResiduals as GELUResiduals
from funcprop.layers.activations.gated import HardSwish as HardSwish
from funcprop.layers.activations.gated import Mish as Mish
from funcprop.layers.activations.gated import SiLU as SiLU
from funcprop.layers.activations.normalized import LogSoftmax as LogSoftmax
from funcprop.layers.activations.normalized import Softmax as Softmax
from funcprop.layers.activations.normalized import Softmin as Softmin
from funcprop.layers.activations.rectifiers import LeakyReLU as LeakyReLU
from funcprop.layers.activations.rectifiers import PReLU as PReLU
from funcprop.layers.activations.rectifiers import ReLU as ReLU
from funcprop.layers.activations.rectifiers import RReLU as RReLU
from funcprop.layers.activations.rectifiers import Slope as Slope
from funcprop.layers.activations.rectifiers import SquaredReLU as SquaredReLU
from funcprop.layers.activations.rectifiers import Threshold as Threshold
from funcprop.layers.activations.shrinking import HardShrink as HardShrink
from funcprop.layers.activations.shrinking import Softshrink as Softshrink
from funcprop.layers.activations.shrinking import TanhShrink as TanhShrink
