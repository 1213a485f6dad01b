"""Kernels of attention are compared with XLA where they will run. Here JAX interprets the one for TPUs."""

import jax.numpy as jnp
import pytest
from jax.experimental.pallas import tpu as pltpu

from tests.models.test_attention import H200, TPU
from tests.models.test_tvts import make
from tvts_jax.errors import UserError
from tvts_jax.models import attention, attention_check, short_attention, tvts

# Of the video's 80 tokens in two blocks, of the sorter's 82, and of the text's, which drop out.
SIZES = {'visible': 79, 'B': 2, 'dtype': 'bfloat16'}
VIDEO = {'width': 32, 'depth': 1, 'heads': 2, 'patch': 4, 'image_size': 40, 'frames': 2, 'tubelet': 2}


def checked() -> str:
  model, params, batch = make(**SIZES, video=VIDEO)
  with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams()), attention.compiling_for(TPU):
    return attention_check.check(model, params, batch)


def test_what_is_compared_is_what_the_model_computes():
  said = checked()
  assert '80 × 80 tokens, 2 heads of 16' in said and said.count('within 0.') == said.count('pallas of') > 0, said


def test_a_kernel_that_errs_is_refused(monkeypatch):
  right = short_attention.attend
  monkeypatch.setattr(short_attention, 'attend', lambda *given: 1.05 * right(*given))
  with pytest.raises(
    UserError, match=r"pallas on cpu differs by [45]\.?\d*% .*2% is allowed; set model.attention='xla'"
  ):
    checked()
  monkeypatch.setattr(short_attention, 'attend', lambda q, *given: jnp.log(-jnp.abs(q)))
  with pytest.raises(UserError, match='pallas on cpu is not finite .*80 × 80 tokens'):
    checked()


def test_lengths_that_cudnn_is_known_to_err_at_are_named(monkeypatch):
  uses = [attention.Call('cudnn', (2, 192, 2, 16), 192, 'bfloat16', masked, False) for masked in (True, False)]
  monkeypatch.setattr(attention, 'calls', lambda *given: uses)
  monkeypatch.setattr(attention_check, 'difference', lambda use: 0.004)
  with attention.compiling_for(H200):
    said = attention_check.check(make(**SIZES, video=VIDEO)[0], {}, {})
  assert said.count('cuDNN of 192 tokens with a mask may give NaN') == 1 and said.count('within 0.4%') == 2


def test_nothing_is_traced_where_xla_computes_all(monkeypatch):
  monkeypatch.setattr(attention, 'calls', None)
  model = tvts.build(tvts.TVTSConfig(attention='xla'))
  assert attention_check.check(model, {}, {}) == 'XLA computes all of it'
