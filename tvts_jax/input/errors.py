"""What the input pipeline raises when data or a request is wrong."""

from tvts_jax.errors import UserError


class InputError(UserError):
  """About shards, records, and what is asked of them."""
