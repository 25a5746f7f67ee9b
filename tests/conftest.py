"""A strict session: warnings are errors (pyproject.toml), dtypes are never promoted."""

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
