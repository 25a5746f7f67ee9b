"""Layers that only move numbers: nothing is kept but sizes, which live in tree structure."""

from funcprop.layers.shape.order import Flatten as Flatten
from funcprop.layers.shape.order import Identity as Identity
from funcprop.layers.shape.order import Reshape as Reshape
from funcprop.layers.shape.order import Transpose as Transpose
from funcprop.layers.shape.pad import Pad as Pad
from funcprop.layers.shape.pieces import Concatenate as Concatenate
from funcprop.layers.shape.pieces import Split as Split
from funcprop.layers.shape.shuffle import ChannelShuffle as ChannelShuffle
from funcprop.layers.shape.shuffle import PixelShuffle as PixelShuffle
from funcprop.layers.shape.shuffle import PixelUnshuffle as PixelUnshuffle
from funcprop.layers.shape.unfold import Fold as Fold
from funcprop.layers.shape.unfold import Unfold as Unfold
from funcprop.layers.shape.upsample import Upsample as Upsample
