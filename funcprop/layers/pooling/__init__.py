"""Pooling: the maximum or the mean of windows over the axes before the channels."""

from funcprop.layers.pooling.avg_pool import AvgPool as AvgPool
from funcprop.layers.pooling.global_pool import GlobalAvgPool as GlobalAvgPool
from funcprop.layers.pooling.global_pool import GlobalMaxPool as GlobalMaxPool
from funcprop.layers.pooling.max_pool import MaxPool as MaxPool
