"""The contract of a layer, its errors, and the checks that make them."""

from funcprop.layer.checks import check_choice as check_choice
from funcprop.layer.checks import check_cotangent as check_cotangent
from funcprop.layer.checks import check_count as check_count
from funcprop.layer.checks import check_input as check_input
from funcprop.layer.checks import check_number as check_number
from funcprop.layer.checks import check_params as check_params
from funcprop.layer.checks import check_rate as check_rate
from funcprop.layer.checks import concrete as concrete
from funcprop.layer.checks import is_float as is_float
from funcprop.layer.checks import is_integer as is_integer
from funcprop.layer.contract import NOT_KNOWN_YET as NOT_KNOWN_YET
from funcprop.layer.contract import Array as Array
from funcprop.layer.contract import Context as Context
from funcprop.layer.contract import Layer as Layer
from funcprop.layer.contract import Params as Params
from funcprop.layer.contract import Residuals as Residuals
from funcprop.layer.contract import Shape as Shape
from funcprop.layer.contract import output_shape as output_shape
from funcprop.layer.contract import two as two
from funcprop.layer.errors import LayerError as LayerError
from funcprop.layer.errors import describe as describe
from funcprop.layer.errors import inside as inside
from funcprop.layer.errors import spell as spell
from funcprop.layer.precision import norm_of as norm_of
from funcprop.layer.precision import reciprocal_root as reciprocal_root
from funcprop.layer.precision import widen as widen
