"""A strict session: warnings are errors (pyproject.toml), and dtypes are never promoted silently."""

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
