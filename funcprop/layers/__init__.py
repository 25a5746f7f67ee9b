"""Layers: one family a file, forward and backward side by side."""

from funcprop.layers.activations import ELU as ELU
from funcprop.layers.activations import GELU as GELU
from funcprop.layers.activations import SELU as SELU
from funcprop.layers.activations import HardTanh as HardTanh
from funcprop.layers.activations import LeakyReLU as LeakyReLU
from funcprop.layers.activations import LogSoftmax as LogSoftmax
from funcprop.layers.activations import ReLU as ReLU
from funcprop.layers.activations import Sigmoid as Sigmoid
from funcprop.layers.activations import SiLU as SiLU
from funcprop.layers.activations import Softmax as Softmax
from funcprop.layers.activations import Softplus as Softplus
from funcprop.layers.activations import Tanh as Tanh
from funcprop.layers.dense import Affine as Affine
from funcprop.layers.dense import Dense as Dense
from funcprop.layers.dropout import Dropout as Dropout
from funcprop.layers.shape import Flatten as Flatten
from funcprop.layers.shape import Identity as Identity
from funcprop.layers.shape import Reshape as Reshape
