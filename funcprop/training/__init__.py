"""Training: an immutable state, pure steps, and what is made of them."""

from funcprop.gradient import GradientFunction as GradientFunction
from funcprop.training.average import EmaState as EmaState
from funcprop.training.average import ema_params as ema_params
from funcprop.training.average import with_ema as with_ema
from funcprop.training.checkpoint import CheckpointError as CheckpointError
from funcprop.training.checkpoint import load_checkpoint as load_checkpoint
from funcprop.training.checkpoint import save_checkpoint as save_checkpoint
from funcprop.training.checkpoints import Checkpoints as Checkpoints
from funcprop.training.checkpoints import Restored as Restored
from funcprop.training.fit import fit as fit
from funcprop.training.in_backward import init_update_state as init_update_state
from funcprop.training.in_backward import update_step as update_step
from funcprop.training.loop import Evaluation as Evaluation
from funcprop.training.loop import epoch as epoch
from funcprop.training.loop import evaluate as evaluate
from funcprop.training.signals import Stopped as Stopped
from funcprop.training.state import TrainState as TrainState
from funcprop.training.state import init_state as init_state
from funcprop.training.step import Metrics as Metrics
from funcprop.training.step import Step as Step
from funcprop.training.step import accumulate as accumulate
from funcprop.training.step import clip_by_norm as clip_by_norm
from funcprop.training.step import ensemble as ensemble
from funcprop.training.step import train_step as train_step
from funcprop.training.unrolling import per_layer as per_layer
