"""Numbers as people read them."""

import pytest

from tvts_jax.human import duration, number, percent


@pytest.mark.parametrize(
  'seconds, text',
  [(0, '0 s'), (0.42, '0.4 s'), (9.96, '10 s'), (99, '99 s'), (100, '2 min'), (5969, '99 min'), (5971, '1 h 40 min')]
  + [(86400, '24 h 0 min'), (3 * 86400 + 7300, '3 d 2 h')],
)
def test_duration(seconds, text):
  assert duration(seconds) == text


@pytest.mark.parametrize(
  'share, text',
  [(0, '0%'), (4**-4, '0.39%'), (1 / 24, '4.2%'), (0.0999, '10.0%'), (0.25, '25.0%'), (1, '100.0%'), (-0.5, '-50.0%')],
)
def test_percent(share, text):
  assert percent(share) == text


@pytest.mark.parametrize(
  'value, text', [(0, '0'), (1.23456, '1.23'), (999, '999'), (1234.5, '1,234'), (1e7, '1e+07'), (1e-9, '1e-09')]
)
def test_number(value, text):
  assert number(value) == text
