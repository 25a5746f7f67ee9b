"""Pooling: the maximum, the mean or a norm of windows over the axes before the channels."""

from funcprop.layers.pooling.adaptive import AdaptiveAvgPool as AdaptiveAvgPool
from funcprop.layers.pooling.adaptive import AdaptiveMaxPool as AdaptiveMaxPool
from funcprop.layers.pooling.avg_pool import AvgPool as AvgPool
from funcprop.layers.pooling.fractional import FractionalMaxPool as FractionalMaxPool
from funcprop.layers.pooling.global_pool import GlobalAvgPool as GlobalAvgPool
from funcprop.layers.pooling.global_pool import GlobalMaxPool as GlobalMaxPool
from funcprop.layers.pooling.lp_pool import LPPool as LPPool
from funcprop.layers.pooling.max_pool import MaxPool as MaxPool
from funcprop.layers.pooling.max_pool import MaxUnpool as MaxUnpool
