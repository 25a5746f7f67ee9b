"""Special functions, linear algebra, distributions and samplers of TensorFlow Probability."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import tensorflow_probability.substrates.jax as tfp
from tensorflow_probability.substrates.jax.experimental.math import manual_special_functions
from tensorflow_probability.substrates.jax.math import hypergeometric, linalg, special
from tensorflow_probability.substrates.jax.math.psd_kernels.internal import util as kernel_util

from rules_in_the_wild.call import Call

TFP = "tensorflow_probability.substrates.jax."
A = np.array([0.6, 1.3, 2.7, 4.2], np.float32)
B = np.array([1.7, 0.4, 3.1, 2.2], np.float32)
UNIT = np.array([0.1, 0.35, 0.62, 0.9], np.float32)
SIGNED = np.array([-2.1, -0.7, 0.4, 1.8], np.float32)
SPD = np.array([[3.0, 0.4, -0.2], [0.4, 2.5, 0.6], [-0.2, 0.6, 4.0]], np.float32)
V = np.array([0.5, -1.0, 2.0], np.float32)
KEY = jax.random.key(3)
m, d = tfp.math, tfp.distributions

ORDER = ("the docstring says that the gradient with respect to the order is not defined; "
         "what is returned for it is zero")  # fmt: skip
PATH = ("implicit reparametrization: the derivative is that of the quantile at the sample, and "
        "finite differences follow the rejection sampler's own path")  # fmt: skip


WRAPPED = ("hyp2f1_small_argument", "sqrt_with_finite_grads", "von_mises_cdf")  # tf.custom_gradient


def call(name, function, *args, changed=False, **options):
    seen_as = "wrapped_fun" if name.endswith(WRAPPED) else ""
    return Call(TFP + name, function, args, changed=changed, seen_as=seen_as, **options)


def symmetric(function):
    return lambda a, *rest: function((a + a.T) / 2, *rest)


def of_order(name, rule, function, closed):
    """A Bessel function by its order and its argument."""

    def confirm():
        v, z = 1.7, 0.6
        with mpmath.workdps(40):
            right = float(mpmath.diff(lambda v: closed(v, mpmath.mpf(z)), v))
        return {"the rule": jax.grad(function)(v, z), "mpmath, 40 digits": right}

    text = f"jax.grad(tfp.math.{name})(1.7, 0.6)"
    return call(f"math.bessel.{rule}", function, B + 1, A, note="by order and argument",
                kind="convention", why=ORDER, confirm=confirm, smallest=text)  # fmt: skip


def by_degrees():
    """The distribution function of noncentral χ², by the degrees of freedom: a Poisson mixture of
    central ones."""
    x, df, n = 1.6, 1.2, 0.6

    def cdf(df):
        def term(j):
            weight = mpmath.exp(-n / 2) * mpmath.mpf(n / 2) ** j / mpmath.factorial(j)
            return weight * mpmath.gammainc(df / 2 + j, 0, x / 2, regularized=True)

        return mpmath.fsum(term(j) for j in range(60))

    with mpmath.workdps(40):
        right = float(mpmath.diff(cdf, mpmath.mpf(df)))
    rule = jax.grad(lambda df: d.NoncentralChi2(df, n).cdf(x))(df)
    return {"the rule": rule, "mpmath, 40 digits": right}


def sampler(name, function, *args, **options):
    return call(name, function, *args, kind="convention", why=PATH, **options)


def flow(y, rate):
    solver = m.ode.DormandPrince(rtol=1e-10, atol=1e-10)
    found = solver.solve(
        lambda t, y, rate: -rate * y * jnp.cos(t), 0.0, y, solution_times=[0.5, 1.2],
        constants={"rate": rate},
    )  # fmt: skip
    return found.states


CALLS = [
    call("math.generic._log_cosh_custom_gradient", m.log_cosh, SIGNED, changed=True),
    call("math.special._betainc_custom_gradient", m.betainc, A, B, UNIT, note="by all arguments"),
    call(
        "math.special._betaincinv_custom_gradient",
        special.betaincinv,
        A,
        B,
        UNIT,
        note="by all arguments",
    ),
    call("math.special._dawsn_custom_gradient", m.dawsn, SIGNED),
    call("math.special._erfcx_custom_gradient", m.erfcx, SIGNED),
    call("math.special._igammainv_custom_gradient", m.igammainv, A, UNIT, note="by both arguments"),
    call(
        "math.special._igammacinv_custom_gradient", m.igammacinv, A, UNIT, note="by both arguments"
    ),
    call("math.special._lambert_custom_gradient", m.lambertw, A),
    call(
        "math.special._log_gamma_difference_custom_gradient",
        m.log_gamma_difference,
        A,
        B + 8,
        kind="rounds more",
        why="a difference of two digamma functions, which cancels",
    ),
    call("math.special._lbeta_custom_gradient", m.lbeta, A, B + 9),
    call("math.special._owens_t_custom_gradient", special.owens_t, SIGNED, B),
    call(
        "math.hypergeometric.hyp2f1_small_argument",
        lambda z: hypergeometric.hyp2f1_small_argument(
            jnp.asarray(A, z.dtype), jnp.asarray(B, z.dtype), jnp.asarray(B + 1, z.dtype), z
        ),
        UNIT / 2,
        note="by z",
    ),
    call(
        "math.psd_kernels.internal.util.sqrt_with_finite_grads",
        kernel_util.sqrt_with_finite_grads,
        A,
    ),
    call("math.linalg._hpsd_logdet_custom_gradient", symmetric(m.hpsd_logdet), SPD),
    call("math.linalg._hpsd_solve_custom_gradient", symmetric(m.hpsd_solve), SPD, V[:, None]),
    call(
        "math.linalg._hpsd_quadratic_form_solve_custom_gradient",
        symmetric(m.hpsd_quadratic_form_solve),
        SPD,
        V[:, None],
    ),
    call(
        "math.linalg._hpsd_quadratic_form_solvevec_custom_gradient",
        symmetric(linalg.hpsd_quadratic_form_solvevec),
        SPD,
        V,
    ),
    call(
        "experimental.math.manual_special_functions._exp_pade_4_4_impl",
        manual_special_functions.exp_pade_4_4,
        SIGNED / 4,
    ),
    call(
        "experimental.math.manual_special_functions._log_pade_4_4_impl",
        manual_special_functions.log_pade_4_4,
        A,
    ),
    call(
        "experimental.math.manual_special_functions._expm1_pade_4_4_impl",
        manual_special_functions.expm1_pade_4_4,
        SIGNED / 4,
    ),
    call(
        "experimental.math.manual_special_functions._log1p_pade_4_4_impl",
        manual_special_functions.log1p_pade_4_4,
        UNIT,
    ),
    call(
        "experimental.distributions.marginal_fns._retrying_cholesky_custom_gradient",
        symmetric(lambda a: tfp.experimental.distributions.marginal_fns.retrying_cholesky(a)[0]),
        SPD,
    ),
    call(
        "distributions.student_t._stdtr_custom_gradient",
        lambda df, t: d.StudentT(df, 0.0, 1.0).cdf(t),
        B + 1,
        SIGNED,
    ),
    call(
        "distributions.student_t._stdtrit_custom_gradient",
        lambda df, p: d.StudentT(df, 0.0, 1.0).quantile(p),
        B + 1,
        UNIT,
    ),
    call(
        "distributions.noncentral_chi2._nc2_cdf_naive",
        lambda x: d.NoncentralChi2(jnp.asarray(B, x.dtype), jnp.asarray(A, x.dtype)).cdf(x),
        A + 1,
        note="by x",
    ),
    call(
        "distributions.noncentral_chi2._nc2_cdf_naive",
        lambda df, n: d.NoncentralChi2(df, n).cdf(jnp.asarray(A + 1, df.dtype)),
        B,
        A,
        note="by the parameters",
        confirm=by_degrees,
        smallest="jax.grad(lambda df: tfd.NoncentralChi2(df, 0.6).cdf(1.6))(1.2)",
    ),
    call(
        "distributions.noncentral_chi2._nc2_quantile_naive",
        lambda p: d.NoncentralChi2(jnp.asarray(B, p.dtype), jnp.asarray(A, p.dtype)).quantile(p),
        UNIT,
        note="by p",
    ),
    call(
        "distributions.von_mises.von_mises_cdf",
        lambda x, c: d.VonMises(0.0, c).cdf(x),
        SIGNED,
        A,
        note="a series below concentration 10.5",
    ),
    call(
        "distributions.von_mises.von_mises_cdf",
        lambda x, c: d.VonMises(0.0, c).cdf(x),
        SIGNED / 4,
        A + 12,
        note="a normal approximation above 10.5",
    ),
    sampler(
        "distributions.von_mises._von_mises_sample_with_gradient",
        lambda c: d.VonMises(jnp.zeros_like(c), c).sample(seed=KEY),
        A,
    ),
    sampler(
        "distributions.gamma._random_gamma_gradient",
        lambda a, b: d.Gamma(a, b).sample(seed=KEY),
        A,
        B,
    ),
    sampler(
        "distributions.inverse_gaussian._random_inverse_gaussian_gradient",
        lambda a, b: d.InverseGaussian(a, b).sample(seed=KEY),
        A,
        B,
    ),
    sampler(
        "distributions.two_piece_normal._two_piece_normal_sample_with_gradient",
        lambda s: d.TwoPieceNormal(0.0, 1.0, s).sample(seed=KEY),
        A,
    ),
    call(
        "math.ode.base.gradient_helper",
        flow,
        V,
        np.float32(0.7),
        note="the adjoint method; it agrees to the solver's tolerance only",
    ),
    of_order(
        "bessel_ive",
        "_bessel_ive_custom_gradient",
        m.bessel_ive,
        lambda v, z: mpmath.besseli(v, z) * mpmath.exp(-z),
    ),
    of_order(
        "bessel_kve",
        "_bessel_kve_custom_gradient",
        m.bessel_kve,
        lambda v, z: mpmath.besselk(v, z) * mpmath.exp(z),
    ),
    of_order(
        "log_bessel_ive",
        "_log_bessel_ive_custom_gradient",
        m.log_bessel_ive,
        lambda v, z: mpmath.log(mpmath.besseli(v, z)) - z,
    ),
    of_order(
        "log_bessel_kve",
        "_log_bessel_kve_custom_gradient",
        m.log_bessel_kve,
        lambda v, z: mpmath.log(mpmath.besselk(v, z)) + z,
    ),
    of_order(
        "bessel_iv_ratio",
        "_bessel_iv_ratio_custom_gradient",
        m.bessel_iv_ratio,
        lambda v, z: mpmath.besseli(v, z) / mpmath.besseli(v - 1, z),
    ),
]
