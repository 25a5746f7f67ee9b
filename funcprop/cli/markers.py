"""How a field of a command is read from its words. Without the extra there is no tyro, and the
parser says so in one line."""

try:
    from tyro.conf import Positional as Positional
    from tyro.conf import UseAppendAction as UseAppendAction
except ModuleNotFoundError:
    Positional = UseAppendAction = None
