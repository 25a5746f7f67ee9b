"""Composites: layers made of layers, the only place where the chain rule is written."""

from funcprop.composites.branch import Branch as Branch
from funcprop.composites.branch import Parallel as Parallel
from funcprop.composites.composite import Composite as Composite
from funcprop.composites.serial import Serial as Serial
from funcprop.composites.skip import Skip as Skip
