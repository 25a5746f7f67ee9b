"""Exercises: a layer whose backward is blank, and words on what a student wrote there."""

from funcprop.exercises.grading import Grade as Grade
from funcprop.exercises.grading import grade as grade
from funcprop.exercises.own import FileError as FileError
from funcprop.exercises.own import own_layer as own_layer
from funcprop.exercises.table import EXERCISES as EXERCISES
from funcprop.exercises.table import Task as Task
