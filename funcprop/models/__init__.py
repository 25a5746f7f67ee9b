"""Models by name: compositions of layers, no mathematics. One family a file."""

from collections.abc import Callable

from funcprop.layer import Layer
from funcprop.models.convolutional import convnet as convnet
from funcprop.models.decoder import from_objective as from_objective
from funcprop.models.decoder import generate as generate
from funcprop.models.decoder import gpt as gpt
from funcprop.models.decoder import gpt_objective as gpt_objective
from funcprop.models.decoder import to_objective as to_objective
from funcprop.models.gpt2 import gpt2_params as gpt2_params
from funcprop.models.lstm import lstm_classifier as lstm_classifier
from funcprop.models.perceptron import mlp as mlp
from funcprop.models.residual import resnet as resnet
from funcprop.models.vision import vit as vit

# What `funcprop train --model NAME` builds: a new model is a function, a line here, and one in
# the recipe that says which options it has.
MODELS: dict[str, Callable[..., Layer]] = {
    "mlp": mlp,
    "convnet": convnet,
    "resnet": resnet,
    "lstm": lstm_classifier,
    "vit": vit,
    "gpt": gpt,
}
