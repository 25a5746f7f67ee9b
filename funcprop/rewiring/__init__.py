"""Rewiring: the first result of backward, changed layer by layer before `init`."""

from funcprop.rewiring.angles import alignment as alignment
from funcprop.rewiring.cotangents import Clipped as Clipped
from funcprop.rewiring.cotangents import Noisy as Noisy
from funcprop.rewiring.cotangents import Reversed as Reversed
from funcprop.rewiring.cotangents import StraightThrough as StraightThrough
from funcprop.rewiring.cotangents import clip_cotangent as clip_cotangent
from funcprop.rewiring.cotangents import gradient_reversal as gradient_reversal
from funcprop.rewiring.cotangents import noisy_cotangent as noisy_cotangent
from funcprop.rewiring.cotangents import straight_through as straight_through
from funcprop.rewiring.direct import DirectFeedback as DirectFeedback
from funcprop.rewiring.direct import direct_feedback_alignment as direct_feedback_alignment
from funcprop.rewiring.feedback import FeedbackAligned as FeedbackAligned
from funcprop.rewiring.feedback import KolenPollack as KolenPollack
from funcprop.rewiring.feedback import SignSymmetric as SignSymmetric
from funcprop.rewiring.feedback import feedback_alignment as feedback_alignment
from funcprop.rewiring.feedback import kolen_pollack as kolen_pollack
from funcprop.rewiring.feedback import sign_symmetry as sign_symmetry
from funcprop.rewiring.freezing import Frozen as Frozen
from funcprop.rewiring.freezing import frozen as frozen
from funcprop.rewiring.rewirings import Rewiring as Rewiring
from funcprop.rewiring.rewirings import rewire as rewire
from funcprop.rewiring.warm import warm_start as warm_start
