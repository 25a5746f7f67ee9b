"""Special functions of JAX: jax.scipy.special, jax.lax, jax.nn, and samplers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.scipy.special as js
import mpmath
import numpy as np
from jax import lax

from rules_in_the_wild.call import Call

A = np.array([0.6, 1.3, 2.7, 4.2], np.float32)
B = np.array([1.7, 0.4, 3.1, 2.2], np.float32)
UNIT = np.array([0.1, 0.35, 0.62, 0.9], np.float32)
SIGNED = np.array([-2.1, -0.7, 0.4, 1.8], np.float32)
KEY = jax.random.key(3)
SPECIAL = "jax._src.scipy.special."
BETA = "of probabilities and positive numbers"


def lax_p(name, function, *args, **options):
    return Call(f"jax.lax.{name}_p", function, args, **options)


def special(name, function, *args, **options):
    return Call(SPECIAL + name, function, args, **options)


def of_sampler():
    """−(∂F/∂a) / f at the sample: what the derivative of a quantile is."""
    a = 1.3

    def draw(a):
        return jax.random.gamma(KEY, a)

    x = float(draw(a))
    with mpmath.workdps(40):
        by_a = mpmath.diff(lambda t: mpmath.gammainc(t, 0, x, regularized=True), a)
        density = mpmath.mpf(x) ** (a - 1) * mpmath.exp(-x) / mpmath.gamma(a)
        return {"the rule": jax.grad(draw)(a), "mpmath, of the quantile": float(-by_a / density)}


CALLS = [
    lax_p("lgamma", js.gammaln, A),
    lax_p("digamma", js.digamma, A),
    lax_p("polygamma", lambda x: js.polygamma(2, x), A, changed=False, note="by x, the order kept"),
    lax_p("igamma", js.gammainc, A, B, changed=False, note=BETA),
    lax_p("igammac", js.gammaincc, A, B, changed=False, note=BETA),
    lax_p(
        "regularized_incomplete_beta",
        lambda x: js.betainc(jnp.float32(1.5), 2.5, x),
        UNIT,
        changed=False,
        note="by x; by a and b JAX raises",
    ),
    lax_p("erf", js.erf, SIGNED),
    lax_p("erfc", js.erfc, SIGNED),
    lax_p("erf_inv", js.erfinv, UNIT, changed=False),
    lax_p("bessel_i0e", js.i0e, SIGNED),
    lax_p("bessel_i1e", js.i1e, SIGNED),
    Call("jax._src.numpy.lax_numpy._i0", jnp.i0, (SIGNED,)),
    special("_erfcx", js.erfcx, A),
    special("_dawsn", js.dawsn, SIGNED),
    special(
        "_wofz",
        lambda x, y: jnp.real(js.wofz(lax.complex(x, y))),
        SIGNED,
        A,
        kind="rounds more",
        why="−2 z w + 2 i / √π cancels where z is large; float64 agrees",
    ),
    special("logit", js.logit, UNIT, changed=False),
    special("xlogy", js.xlogy, A, B),
    special("xlog1py", js.xlog1py, A, B),
    special("_xlogx", js.entr, A),
    special("_xlogx", js.rel_entr, A, B, note="through rel_entr"),
    special("_xlogx", js.kl_div, A, B, note="through kl_div"),
    special("zeta", lambda q: js.zeta(jnp.float32(3.2), q), A, changed=False, note="by q"),
    special(
        "zeta", lambda x, q: js.zeta(x, q), A + 1.5, B, changed=False, note="by both arguments"
    ),
    special("log_ndtr", js.log_ndtr, SIGNED),
    special("expi", js.expi, A),
    special("sici", js.sici, A),
    special("expn", lambda x: js.expn(2, x), A, note="of order 2, by x"),
    special("expn", js.exp1, A, note="through exp1"),
    special("poch", js.poch, A, B, changed=False, note="by both arguments"),
    special("hyp1f1", js.hyp1f1, A, B, SIGNED, changed=False, note="by all arguments"),
    special(
        "hyp2f1",
        lambda x: js.hyp2f1(*(jnp.asarray(p, x.dtype) for p in (A, B, B + 1)), x),
        UNIT / 2,
        changed=False,
        note="by x",
    ),
    special("_owens_t_impl", js.owens_t, SIGNED, B),
    Call("jax._src.third_party.scipy.special.fresnel", js.fresnel, (SIGNED,)),
    lax_p("lgamma", lambda a: js.multigammaln(a, 2), A + 2, note="through multigammaln"),
    lax_p("lgamma", js.betaln, A, B, note="through betaln", changed=False),
    lax_p("scan", lambda z: js.bessel_jn(z, v=3), A, note="through bessel_jn, orders 0 to 3"),
    Call(
        "jax.random.random_gamma_p",
        lambda a: jax.random.gamma(KEY, a),
        (A,),
        changed=False,
        kind="convention",
        confirm=of_sampler,
        why="implicit reparametrization: the derivative "
        "is that of the quantile at the sample, and finite differences follow the rejection "
        "sampler's own path",
        smallest="jax.grad(lambda a: jax.random.gamma(key, a))(1.3)",
    ),
]
