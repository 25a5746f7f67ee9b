"""The pytest plugin by the name it had first: `pytest -p funcprop.comparison.plugin`."""

from funcprop.testing.plugin import *  # noqa: F403
