"""What Python code calls says by its types what it takes and gives."""

import inspect

import pytest

import tvts_jax
from tvts_jax import convert, embed, evaluate

METHODS = [getattr(embed.Embedder, name) for name in ('embed_video', 'embed_text', 'read', 'frames', 'videos', 'texts')]
CONVERT = [own for own in (getattr(convert, name) for name in convert.__all__) if inspect.isfunction(own)]


@pytest.mark.parametrize(
  'function', [tvts_jax.load, evaluate.evaluate, *METHODS, *CONVERT], ids=lambda own: own.__qualname__
)
def test_what_is_called_from_python_has_types_and_a_sentence(function):
  signature = inspect.signature(function)
  untyped = [own.name for own in signature.parameters.values() if own.annotation is own.empty and own.name != 'self']
  assert not untyped and signature.return_annotation is not signature.empty
