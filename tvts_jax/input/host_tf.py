"""TensorFlow as a worker of the host: it reads and decodes, and never sees an accelerator."""

import contextlib
import functools
import os

from tvts_jax.errors import UserError


@functools.cache
def tensorflow():
  """The module `tensorflow`, imported when first needed: it costs seconds and hundreds of megabytes."""
  # What matters reaches us as an exception; the log would repeat it with a stack trace before we can name its cause.
  # TensorFlow looks at the variable when it is loaded. JAX has set it by then, for itself, and is to find it again.
  before = os.environ.get('TF_CPP_MIN_LOG_LEVEL')
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
  # Where PyTorch has brought triton, its import kills the process if TensorFlow was loaded before.
  with contextlib.suppress(ImportError):
    import triton  # noqa: F401
  import tensorflow as tf

  if before is not None:
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = before
  for kind in ('GPU', 'TPU'):
    try:
      tf.config.set_visible_devices([], kind)
    except RuntimeError as e:
      raise UserError(
        f'TensorFlow was used before the input pipeline was opened and holds the {kind}s that JAX needs: '
        'open the pipeline first'
      ) from e
  return tf
