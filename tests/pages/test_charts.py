"""Charts, read back: what is drawn is what was given."""

import math
import re
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvts_jax.human import percent
from tvts_jax.pages import charts
from tvts_jax.pages.charts import Curve


def axis(html):
  """-> a function from places of the drawing to values, by the labels of the vertical axis."""
  labels = re.findall(r'class="y" style="top: (-?[\d.]+)%">([^<]+)<', html)
  assert 2 <= len(labels) <= 8, labels
  (a, low), (b, high) = [(10 * float(top), value(said)) for top, said in (labels[0], labels[-1])]
  return lambda y: low + (y - a) / (b - a) * (high - low)


def value(said):
  return float(said[:-1]) / 100 if said.endswith('%') else float(said.replace(',', ''))


def drawn(html, look):
  [path] = re.findall(rf'<path class="{look}" d="([^"]*)"', html)
  return [(pen, float(x), float(y)) for pen, x, y in re.findall(r'([ML])([\d.-]+) ([\d.-]+)', path)]


@pytest.mark.parametrize('form', [charts.number, percent])
def test_curves_show_the_values_at_their_steps(form):
  points = [(0, 0.0), (25, 0.75), (50, 0.5), (100, 1.0)]
  html = charts.curves([Curve('one', points), Curve('two', [(50, 0.25)], 'other')], 100, form=form, level=0.125)
  at = axis(html)
  found = drawn(html, 'own')
  assert [at(y) for _, _, y in found] == pytest.approx([v for _, v in points], abs=2e-3)
  (_, x0, _), (_, x1, _) = found[0], found[-1]
  assert [100 * (x - x0) / (x1 - x0) for _, x, _ in found] == pytest.approx([s for s, _ in points], abs=0.1)
  [(_, x, y)] = drawn(html, 'other')
  assert (100 * (x - x0) / (x1 - x0), at(y)) == pytest.approx((50, 0.25), abs=0.1)
  [level] = re.findall(r'class="level" x1="0" x2="1000" y1="([\d.]+)"', html)
  assert at(float(level)) == pytest.approx(0.125, abs=2e-3)
  for name, last in (('one', 1.0), ('two', 0.25), ('chance', 0.125)):
    assert re.search(rf'{name} <b>{form(last)}</b>', html), name


def test_a_gap_is_not_drawn_over():
  html = charts.curves([Curve('one', [(1, 1.0), (2, 2.0), (3, math.nan), (4, 3.0), (5, 4.0)])], 5)
  assert [pen for pen, _, _ in drawn(html, 'own')] == ['M', 'L', 'M', 'L']
  assert '<b>4</b>' in html


def test_pointing_at_a_step_names_its_values():
  lines = [Curve('a<b', [(1, 0.5), (3, 0.25)]), Curve('two', [(3, 0.75)], 'other')]
  html = charts.curves(lines, 3, form=percent, level=0.1)
  said = re.findall(r'<title>([^<]*)</title>', html)
  assert said == ['step 1\na&lt;b 50.0%\nchance 10.0%', 'step 3\na&lt;b 25.0%\ntwo 75.0%\nchance 10.0%']
  columns = [tuple(map(float, c)) for c in re.findall(r'class="hit" x="([\d.]+)" width="([\d.]+)"', html)]
  assert columns[0][0] == 0 and sum(columns[-1]) == pytest.approx(1000, abs=0.2)


def test_many_noisy_points_are_drawn_as_few_with_their_mean():
  points = [(s, 5 + (-1) ** s + (1000 if s == 4321 else 0)) for s in range(10000)]
  html = charts.curves([Curve('loss', points)], 10000, noisy=True)
  at, mean = axis(html), drawn(html, 'own')
  assert len(html) < 80_000 and len(mean) == charts.DRAWN
  assert all(at(y) == pytest.approx(5, abs=0.3) for _, _, y in mean[1:-1]), 'the spike is in the thin line only'
  assert min(y for _, _, y in drawn(html, 'own raw')) < 0, 'and leaves the drawing'


@given(
  st.lists(st.floats(-1e29, 1e29) | st.floats(-1, 1) | st.just(math.nan), min_size=1, max_size=60),
  st.none() | st.floats(-1e3, 1e3),
  st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_any_numbers_make_a_drawing(values, level, noisy):
  html = charts.curves([Curve('x', list(enumerate(values)))], len(values), level=level, noisy=noisy)
  assert not re.search(r'\b(nan|inf)\b', re.sub(r'<b>[^<]*</b>|<title>[^<]*</title>', '', html))
  marks = [float(y) for y in re.findall(r'<line x1="0" x2="1000" y1="([\d.-]+)"', html)]
  assert 2 <= len(marks) <= 8 and all(-1 <= y <= 1001 for y in marks)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 100))
@settings(max_examples=50, deadline=None)
def test_thinning_keeps_ends_and_means(values, most):
  points = list(enumerate(values))
  thin = charts.thin(points, most)
  assert len(thin) == min(len(values), most)
  assert [s for s, _ in thin] == sorted(s for s, _ in thin)
  if len(values) % len(thin) == 0:
    assert statistics.fmean(v for _, v in thin) == pytest.approx(statistics.fmean(values), abs=1e-3)


def test_bars_are_as_long_as_their_shares():
  html = charts.bars({'<own>': (0.933, 'own'), 'blank': (-0.1, 'blank'), 'other': (1.5, 'other')}, 0.25)
  assert re.findall(r'fill (\w+)" style="width: ([\d.]+)%', html) == [
    ('own', '93.30'),
    ('blank', '0.00'),
    ('other', '100.00'),
  ]
  assert html.count('left: 25.00%') == 3 and '&lt;own&gt;' in html and '<b>93.3%</b>' in html
  assert 'mark' not in charts.bars({'own': (0.5, 'own')}, None)


def test_a_divided_bar_divides_the_whole():
  html = charts.split({'a': (30.0, 'own'), 'b': (0.0, 'bad'), 'c': (10.0, 'calm')}, '{:.0f} s'.format)
  assert [float(f) for f in re.findall(r'flex: ([\d.]+) ', html)] == [0.75, 0.25]
  assert 'a <b>75.0%</b> 30 s' in html and 'title="c: 10 s, 25.0%"' in html
  assert 'flex' not in charts.split({'a': (0.0, 'own')}, str)
