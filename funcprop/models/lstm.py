"""lstm_classifier: a sequence is read to its end, and its last state told apart."""

from __future__ import annotations

from funcprop.composites import Serial
from funcprop.doors import door
from funcprop.layers import LSTM, Dense, Dropout, Flatten, LastStep, Pixels


@door
def lstm_classifier(classes: int, width: int = 128, dropout: float = 0.0, axes: int = 3) -> Serial:
    """A recurrent network: x [batch, *example], floats or bytes -> [batch, classes].

    width    size of the LSTM's state
    dropout  rate, before the Dense
    axes     how many axes an example has: 3 for images [height, width, channels], whose rows are
             the steps, from the top; 2 for sequences [time, features]

    Sequences of different lengths are padded, and `context.mask` [batch, time] shows what counts.
    Raises LayerError for sizes and rates that cannot be.

    source  Hochreiter and Schmidhuber, Long short-term memory, 1997

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.lstm_classifier(classes=10, axes=2), jnp.zeros((8, 20, 3))
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> jax.eval_shape(model.forward, params, x)[0].shape
    (8, 10)
    """
    return Serial(
        Pixels(),
        *(() if axes == 2 else (Flatten(axes=axes - 1),)),
        LSTM(width),
        LastStep(),
        *((Dropout(dropout),) if dropout else ()),
        Dense(classes),
    )
