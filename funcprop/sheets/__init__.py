"""Tables that say how things stand, and how they are shown."""

from funcprop.sheets.sheet import Line as Line
from funcprop.sheets.sheet import Sheet as Sheet
from funcprop.sheets.sheet import aligned as aligned
from funcprop.sheets.shown import Shown as Shown
