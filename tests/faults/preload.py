"""What every run imports, so that those forked from here start at once; nothing is computed."""

from importlib import import_module

for name in (
    "funcprop.catalogue.table",
    "funcprop.cli.train",
    "orbax.checkpoint.checkpoint_managers",
    "safetensors.numpy",
):
    import_module(name)
