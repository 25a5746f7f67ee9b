"""Losses: parameterless layers on (prediction, target) with a scalar output."""

from funcprop.losses.binary import BinaryCrossEntropy as BinaryCrossEntropy
from funcprop.losses.binary import SoftMargin as SoftMargin
from funcprop.losses.classification import FocalLoss as FocalLoss
from funcprop.losses.classification import SoftmaxCrossEntropy as SoftmaxCrossEntropy
from funcprop.losses.ctc import CTC as CTC
from funcprop.losses.divergence import KLDivergence as KLDivergence
from funcprop.losses.embedding import CosineDistance as CosineDistance
from funcprop.losses.embedding import InfoNCE as InfoNCE
from funcprop.losses.embedding import TripletMargin as TripletMargin
from funcprop.losses.likelihood import PoissonNLL as PoissonNLL
from funcprop.losses.linear_cross_entropy import LinearCrossEntropy as LinearCrossEntropy
from funcprop.losses.loss import Loss as Loss
from funcprop.losses.margin import Hinge as Hinge
from funcprop.losses.regression import Huber as Huber
from funcprop.losses.regression import MeanAbsoluteError as MeanAbsoluteError
from funcprop.losses.regression import MeanSquaredError as MeanSquaredError
from funcprop.losses.regression import QuadraticCost as QuadraticCost
