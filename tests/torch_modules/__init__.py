"""PyTorch's modules, translated: the arguments of a class there -> a layer of this package.

A table holds `translate(args, kwargs) -> (layer, adapt)` by the name of PyTorch's class; it raises
`Unsupported`, with a reason, where there is no such layer here.
"""
