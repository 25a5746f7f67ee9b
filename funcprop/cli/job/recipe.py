"""A recipe: what is trained on what, and how."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from funcprop.cli.job.checks import RecipeError, choose, number, whole
from funcprop.cli.job.names import (
    ACTIVATIONS,
    DEFAULTS,
    FITTING,
    INITS,
    LOSSES,
    OPTIMIZERS,
    OPTIONS,
    SCHEDULES,
)
from funcprop.models import MODELS

# Options that came later: a run without them is stored, and found again, as it was before
LATER = ("schedule", "warmup", "label_smoothing", "ema", "early_stopping", "precision")


@dataclass(frozen=True)
class Recipe:
    """What is trained on what, and how. The defaults reach 98 % on the digits in seconds.

    Raises RecipeError for unknown names, with the nearest one, and for impossible numbers.
    """

    model: str = "mlp"
    """The model: mlp (Dense layers with an activation between them); for images convnet, resnet or
    vit; lstm (the rows of an image one after the other); for text gpt."""

    data: str = "digits"
    """The data: digits (1,797 real 8x8 images, no download), xor, moons or spiral (500 points in a
    plane), mnist, fashion-mnist, kmnist or emnist from --data-dir, openml:NAME from openml.org,
    text:FILE, or text: for the help text of Python. Of any size, read from disk while it trains:
    images:DIR (DIR/class/*.png or .jpg), tokens:FILE?vocabulary=V (memory-mapped),
    records:FILE (array_record), npz:FILE, datasets:DIR (Hugging Face),
    table:FILE?target=COLUMN&classes=N (CSV, Parquet); a tenth of it, at most 10,000 examples, is
    the test set."""

    data_dir: Path | None = None
    """The folder of the data's files, plain or gzipped."""

    layers: tuple[int, ...] | None = None
    """Of mlp: sizes of the hidden layers, such as 30, or 128 64; no number at all for a linear
    model. Without the option 256."""

    width: int | None = None
    """Of the other models: channels of the first convolution (convnet 32, resnet 16), the state of
    the lstm (128), features of a patch (vit) or of a byte (gpt), 64."""

    depth: int | None = None
    """Blocks of vit (4) and gpt (2), and in each of the three stages of resnet (1)."""

    heads: int | None = None
    """Attention heads of vit and gpt (4), which divide the width."""

    patch: int | None = None
    """Height and width of the patches of vit (2), which divide those of the image."""

    length: int | None = None
    """Bytes that gpt reads at a time (128)."""

    dropout: float | None = None
    """Rate of dropout in convnet (0.5), lstm (0), vit (0) and gpt (0)."""

    activation: str | None = None
    """Of mlp and convnet: sigmoid, tanh, relu (without the option), leaky-relu, elu, selu, gelu,
    gelu-tanh, silu, softplus, hard-tanh, hard-swish, mish, relu6, squared-relu or identity."""

    loss: str = "cross-entropy"
    """The loss: cross-entropy (softmax), binary-cross-entropy (a sigmoid for each class),
    quadratic, mean-squared-error, huber or hinge. With sigmoid activations the three losses of
    a difference see sigmoid outputs; all others see the outputs of the last Dense as they are.
    Text has cross-entropy only."""

    label_smoothing: float = 0.0
    """α, of cross-entropy: the targets trained on are (1 - α) y + α / classes. The held-out loss is
    without it."""

    optimizer: str = "adam"
    """The optimizer: sgd, momentum, nesterov, adagrad, rmsprop, adam, adamw, nadam, adamax or
    lion."""

    learning_rate: float | None = None
    """The learning rate; without one, the optimizer's own (sgd 0.1, momentum and nesterov 0.01,
    adagrad 0.05, lion 0.0001, the others 0.001)."""

    schedule: str = "constant"
    """What the learning rate does after the warmup: constant, or it falls to 0 at the end of the
    run along half a cosine, or linear. A run whose rate falls cannot become longer."""

    warmup: int = 0
    """Steps over which the learning rate rises in a straight line before that."""

    batch_size: int = 32
    """Examples in a mini-batch."""

    epochs: int = 30
    """Passes over the training examples."""

    init: str | None = None
    """How the weights of mlp and convnet start: glorot, glorot-normal, he, he-uniform, lecun,
    lecun-uniform, orthogonal (biases 0), normal (all N(0, 1)) or scaled-normal (weights
    N(0, 1/n_in), biases N(0, 1)). Without one it fits the activation; sigmoid with quadratic
    starts normal."""

    weight_decay: float | None = None
    """Share of every weight taken off beside the gradient step, times the learning rate; biases
    are spared. Without one: 0, but adamw 0.0001 and lion 0.001."""

    l2: float = 0.0
    """λ of a penalty λ/2·|w|² on the weights, added to the gradient; biases are spared. Nielsen's
    λ is n times this one."""

    clip_norm: float | None = None
    """The largest norm a gradient may have; longer ones are scaled down."""

    ema: float | None = None
    """Share of the old average that a step keeps, such as 0.999: held-out examples are classified
    by the exponential moving average of the parameters, and it is what --out and the pictures keep.
    Statistics of batch norm are those of the parameters themselves."""

    validation: bool = False
    """Hold a validation set out of the training set and watch that one from epoch to epoch; the
    test set is looked at once, at the end."""

    early_stopping: int | None = None
    """Epochs without a smaller loss on the validation set, after which the run ends; the parameters
    of the epoch with the smallest are kept, also where the run ends by itself."""

    gradient: str = "manual"
    """Who differentiates: manual (the hand-written backward passes) or automatic (jax.grad)."""

    precision: str = "float32"
    """What the training steps compute in: float32, bfloat16, or float16 with dynamic loss scaling,
    whose skipped steps are told at the end. Parameters, their average and the optimizer stay
    float32, and the held-out examples are classified in it."""

    seed: int = 0
    """Where all random numbers come from."""

    def __post_init__(self) -> None:
        choose("model", self.model, MODELS)
        if self.activation is not None:
            choose("activation", self.activation, ACTIVATIONS)
        choose("loss", self.loss, LOSSES)
        choose("optimizer", self.optimizer, OPTIMIZERS)
        choose("schedule", self.schedule, SCHEDULES)
        choose("gradient", self.gradient, ("manual", "automatic"))
        choose("precision", self.precision, ("float32", "bfloat16", "float16"))
        if self.init is not None:
            choose("init", self.init, INITS)
        if self.model == "gpt" and self.loss != "cross-entropy":
            raise RecipeError(
                f"--loss is {self.loss!r}, and gpt is trained with cross-entropy only: leave it out"
            )
        if self.label_smoothing and self.loss != "cross-entropy":
            raise RecipeError(
                f"--label-smoothing is {self.label_smoothing}, and --loss is {self.loss!r}: it is "
                "for cross-entropy only, so leave it out"
            )
        for option in OPTIONS:
            if getattr(self, option) is not None and option not in DEFAULTS[self.model]:
                names = ", ".join(f"--{name}" for name in DEFAULTS[self.model])
                raise RecipeError(f"--{option}: {self.model} has no such option; it has {names}")
        layers = self.layers or ()
        if len(layers) > 1000:
            raise RecipeError(f"--layers: {len(layers)} hidden layers, wanted at most 1000")
        for size in layers:
            whole("layers", size, 1, 100_000)
        for option in ("width", "depth", "heads", "patch", "length"):
            if getattr(self, option) is not None:
                whole(option, getattr(self, option), 1, 100_000)
        number("dropout", self.dropout, 0, 0.99)
        whole("batch-size", self.batch_size, 1, 10**9)
        whole("epochs", self.epochs, 1, 10**6)
        whole("warmup", self.warmup, 0, 10**9)
        whole("seed", self.seed, 0, 2**32 - 1)
        if self.early_stopping is not None:
            whole("early-stopping", self.early_stopping, 1, 10**6)
            if not self.validation:
                raise RecipeError(
                    f"--early-stopping is {self.early_stopping}, and there is no validation set to "
                    "watch: add --validation"
                )
        number("learning-rate", self.learning_rate, 0, 1e4, open_below=True)
        number("clip-norm", self.clip_norm, 0, 1e9, open_below=True)
        number("weight-decay", self.weight_decay, 0, 1e3)
        number("l2", self.l2, 0, 1e3)
        number("label-smoothing", self.label_smoothing, 0, 1, open_above=True)
        number("ema", self.ema, 0, 1, open_above=True)


def settled(recipe: Recipe) -> Recipe:
    """The recipe with every number and name it leaves open written out.

    What the model has no use for stays None.
    """
    rule, options = OPTIMIZERS[recipe.optimizer], {}
    for name, default in DEFAULTS[recipe.model].items():
        given = getattr(recipe, name)
        options[name] = default if given is None else given
    if "init" in options and options["init"] is None:
        if (options["activation"], recipe.loss) == ("sigmoid", "quadratic"):
            options["init"] = "normal"  # Nielsen's first network
        else:
            options["init"] = FITTING.get(options["activation"], "glorot")
    rate, decay = recipe.learning_rate, recipe.weight_decay
    return dataclasses.replace(
        recipe,
        learning_rate=rule.learning_rate if rate is None else rate,
        weight_decay=rule.weight_decay if decay is None else decay,
        **options,
    )
