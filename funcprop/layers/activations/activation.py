"""What elementwise activations have in common."""

from __future__ import annotations

from funcprop.layer import Layer


class Activation(Layer):
    """An elementwise function without parameters, whatever the axes mean.

    Each element of the output depends on the element of the input at its place alone: where the
    features of an array lie on several devices, they stay where they are.

    forward   z [...] -> a [...]
    backward  dz = da · f′(z)
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a

    >>> import funcprop as fp
    >>> isinstance(fp.Tanh(), fp.layers.Activation), isinstance(fp.Softmax(), fp.layers.Activation)
    (True, False)
    """
