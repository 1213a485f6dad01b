import multiprocessing

import pytest

from data.outcomes import BuildError, ItemError
from tvts_jax.errors import UserError
from tvts_jax.media.errors import MediaError


def test_errors_have_one_root_and_pass_between_processes():
  errors = MediaError('not_a_video', 'a page'), ItemError('no_words', 'silence'), BuildError('no space left', 'output')
  ours, theirs = multiprocessing.Pipe()
  for error in errors:
    ours.send(error)
    again = theirs.recv()
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)
    assert isinstance(error, UserError)
  assert isinstance(errors[1], MediaError)


def test_codes_are_those_of_the_table():
  ItemError('not_a_video', 'a page')
  for kind, code in ((MediaError, 'no_words'), (ItemError, 'not_a_vdieo')):
    with pytest.raises(KeyError, match=f"'{code}' is not a code of {kind.__name__}; known: bad_archive"):
      kind(code, '')
