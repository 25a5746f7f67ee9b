"""Layers: one family a file, forward and backward side by side."""

from typing import TYPE_CHECKING

from funcprop.layers.activations import CELU as CELU
from funcprop.layers.activations import ELU as ELU
from funcprop.layers.activations import GELU as GELU
from funcprop.layers.activations import SELU as SELU
from funcprop.layers.activations import Activation as Activation
from funcprop.layers.activations import HardShrink as HardShrink
from funcprop.layers.activations import HardSigmoid as HardSigmoid
from funcprop.layers.activations import HardSwish as HardSwish
from funcprop.layers.activations import HardTanh as HardTanh
from funcprop.layers.activations import LeakyReLU as LeakyReLU
from funcprop.layers.activations import LogSigmoid as LogSigmoid
from funcprop.layers.activations import LogSoftmax as LogSoftmax
from funcprop.layers.activations import Mish as Mish
from funcprop.layers.activations import PReLU as PReLU
from funcprop.layers.activations import ReLU as ReLU
from funcprop.layers.activations import ReLU6 as ReLU6
from funcprop.layers.activations import RReLU as RReLU
from funcprop.layers.activations import Sigmoid as Sigmoid
from funcprop.layers.activations import SiLU as SiLU
from funcprop.layers.activations import Slope as Slope
from funcprop.layers.activations import Softmax as Softmax
from funcprop.layers.activations import Softmin as Softmin
from funcprop.layers.activations import Softplus as Softplus
from funcprop.layers.activations import Softshrink as Softshrink
from funcprop.layers.activations import Softsign as Softsign
from funcprop.layers.activations import SquaredReLU as SquaredReLU
from funcprop.layers.activations import Tanh as Tanh
from funcprop.layers.activations import TanhShrink as TanhShrink
from funcprop.layers.activations import Threshold as Threshold
from funcprop.layers.attention import DotProductAttention as DotProductAttention
from funcprop.layers.batch_norm import BatchNorm as BatchNorm
from funcprop.layers.batch_norm import Statistics as Statistics
from funcprop.layers.convolution import Conv as Conv
from funcprop.layers.convolution import Kernel as Kernel
from funcprop.layers.dense import Affine as Affine
from funcprop.layers.dense import Dense as Dense
from funcprop.layers.elementwise import Elementwise as Elementwise
from funcprop.layers.elementwise import Lambda as Lambda
from funcprop.layers.embedding import Embedding as Embedding
from funcprop.layers.embedding import LearnedPositions as LearnedPositions
from funcprop.layers.embedding import Rotary as Rotary
from funcprop.layers.embedding import SinusoidalPositions as SinusoidalPositions
from funcprop.layers.embedding import Table as Table
from funcprop.layers.gate import Multiply as Multiply
from funcprop.layers.gru import GRU as GRU
from funcprop.layers.gru import GRUWeights as GRUWeights
from funcprop.layers.last_step import LastStep as LastStep
from funcprop.layers.linear_recurrence import LinearRecurrence as LinearRecurrence
from funcprop.layers.lora import LoRA as LoRA
from funcprop.layers.lora import LowRank as LowRank
from funcprop.layers.lstm import LSTM as LSTM
from funcprop.layers.normalization import GroupNorm as GroupNorm
from funcprop.layers.normalization import InstanceNorm as InstanceNorm
from funcprop.layers.normalization import LayerNorm as LayerNorm
from funcprop.layers.normalization import RMSNorm as RMSNorm
from funcprop.layers.pixels import Pixels as Pixels
from funcprop.layers.pooling import AvgPool as AvgPool
from funcprop.layers.pooling import GlobalAvgPool as GlobalAvgPool
from funcprop.layers.pooling import GlobalMaxPool as GlobalMaxPool
from funcprop.layers.pooling import MaxPool as MaxPool
from funcprop.layers.quantize import Binarize as Binarize
from funcprop.layers.quantize import Quantize as Quantize
from funcprop.layers.recurrence import RecurrentWeights as RecurrentWeights
from funcprop.layers.rnn import RNN as RNN
from funcprop.layers.scale import Bias as Bias
from funcprop.layers.scale import Gain as Gain
from funcprop.layers.scale import Scale as Scale
from funcprop.layers.shape import Concatenate as Concatenate
from funcprop.layers.shape import Flatten as Flatten
from funcprop.layers.shape import Identity as Identity
from funcprop.layers.shape import Pad as Pad
from funcprop.layers.shape import Reshape as Reshape
from funcprop.layers.shape import Split as Split
from funcprop.layers.shape import Transpose as Transpose
from funcprop.layers.shape import Upsample as Upsample
from funcprop.layers.stochastic import Dropout as Dropout
from funcprop.layers.stochastic import GaussianNoise as GaussianNoise
from funcprop.layers.stochastic import SpatialDropout as SpatialDropout
from funcprop.layers.transposed import ConvTranspose as ConvTranspose
from funcprop.lazy import deprecated

if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__)
