"""Collectors: one backward pass, anything out of it."""

from typing import TYPE_CHECKING

from funcprop.collectors import closed_loss as closed_loss
from funcprop.collectors.accounting import epsilon as epsilon
from funcprop.collectors.accounting import noise_for as noise_for
from funcprop.collectors.accounting import poisson_batches as poisson_batches
from funcprop.collectors.blocks import Diagonal as Diagonal
from funcprop.collectors.blocks import Eigen as Eigen
from funcprop.collectors.blocks import Kronecker as Kronecker
from funcprop.collectors.bookkeeping import book_keeping as book_keeping
from funcprop.collectors.bookkeeping import squared_total as squared_total
from funcprop.collectors.bookkeeping import weighted_sum as weighted_sum
from funcprop.collectors.clipping import clipped as clipped
from funcprop.collectors.clipping import private_gradient as private_gradient
from funcprop.collectors.closed import closed_form as closed_form
from funcprop.collectors.collection import Collected as Collected
from funcprop.collectors.collection import collect as collect
from funcprop.collectors.eigenvalues import Ekfac as Ekfac
from funcprop.collectors.eigenvalues import ekfac as ekfac
from funcprop.collectors.examples import gradients as gradients
from funcprop.collectors.examples import inner_products as inner_products
from funcprop.collectors.examples import noise_scale as noise_scale
from funcprop.collectors.examples import second_moment as second_moment
from funcprop.collectors.examples import squared_norms as squared_norms
from funcprop.collectors.examples import total as total
from funcprop.collectors.examples import variance as variance
from funcprop.collectors.form import Form as Form
from funcprop.collectors.forms import Full as Full
from funcprop.collectors.forms import Outer as Outer
from funcprop.collectors.forms import Rows as Rows
from funcprop.collectors.ggn import diag_ggn as diag_ggn
from funcprop.collectors.ggn import ggn_vector as ggn_vector
from funcprop.collectors.ggn import hessian_vector as hessian_vector
from funcprop.collectors.held import Held as Held
from funcprop.collectors.held import apart as apart
from funcprop.collectors.inverses import inverses_of as inverses_of
from funcprop.collectors.inverses import precondition as precondition
from funcprop.collectors.kronecker import Kfac as Kfac
from funcprop.collectors.kronecker import kfac as kfac
from funcprop.collectors.kronecker import kronecker_form as kronecker_form
from funcprop.collectors.loss_hessian import Root as Root
from funcprop.collectors.loss_hessian import hessian_root as hessian_root
from funcprop.collectors.preconditioner import precondition_by_kfac as precondition_by_kfac
from funcprop.collectors.preconditioner import with_factors as with_factors
from funcprop.collectors.record import Record as Record
from funcprop.collectors.record import records as records
from funcprop.collectors.record import values as values
from funcprop.collectors.rule import Remembered as Remembered
from funcprop.collectors.rule import Rule as Rule
from funcprop.collectors.rule import RuleFunction as RuleFunction
from funcprop.collectors.rule import gradient as gradient
from funcprop.collectors.selection import only as only
from funcprop.collectors.single_examples import check_unmixed as check_unmixed
from funcprop.collectors.single_examples import summed as summed
from funcprop.collectors.split import SplitBackward as SplitBackward
from funcprop.collectors.split import bytes_between as bytes_between
from funcprop.collectors.split import split_backward as split_backward
from funcprop.collectors.together import collect_all as collect_all
from funcprop.collectors.tracing import Trace as Trace
from funcprop.collectors.tracing import trace as trace
from funcprop.collectors.updating import update as update
from funcprop.lazy import deprecated

if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__)
