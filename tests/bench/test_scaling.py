"""Scaling: devices send each other what the sizes of parameters say, and shares are of one device's speed."""

import dataclasses
import re
import weakref

import jax
import numpy as np
import pytest

from tests.bench.test_step import make
from tvts_jax import sharding
from tvts_jax import step as step_lib
from tvts_jax.bench import scaling
from tvts_jax.errors import UserError
from tvts_jax.pages import measurements

DEVICES = 8

F32, WAYS = 4, 8


def one_clip():
  config = make()
  return dataclasses.replace(config, input=dataclasses.replace(config.input, batch=1))


@pytest.mark.long
def test_a_device_sends_what_the_sizes_of_split_parameters_say():
  """Around a ring of n devices a sum is 2 (n-1)/n of its size, and a gathering (n-1)/n."""
  config = scaling.on(one_clip(), 'fsdp', WAYS)
  mesh = sharding.make_mesh(config.mesh)
  parts = step_lib.describe(config, 10)
  place = sharding.state_layout(parts.shapes, config.sharding, mesh)
  rng = jax.eval_shape(lambda: jax.random.key(0))
  with jax.set_mesh(mesh):
    compiled = step_lib.compile_step(parts.train_step, parts.shapes, parts.spec, rng, place, mesh)
  moved = scaling.moved(type('Compiled', (), dict(compiled=compiled, mesh=mesh)))
  sizes = {sharding.path_name(path): F32 * leaf.size for path, leaf in jax.tree.leaves_with_path(parts.shapes.params)}
  share = (WAYS - 1) / WAYS
  summed = moved['all-reduce'] + moved.get('reduce-scatter', 0)
  assert summed == pytest.approx(2 * share * sum(sizes.values()), rel=0.1)
  # Blocks one deep are no loop, so what the rules split is gathered once for both ways; loops gather anew for the way
  # back.
  split = re.compile(r'attn/\w+/kernel|mlp/\w+/kernel|^text/(word|position)$|video/embed/kernel')
  once = sum(size for name, size in sizes.items() if split.search(name))
  assert moved['all-gather'] == pytest.approx(share * once, rel=0.05)


def test_shares_are_of_what_one_device_does(monkeypatch, tmp_path):
  pace, alive = {1: 1.0, 2: 1.25, 4: 2.0}, weakref.WeakSet()

  class Step:
    def __init__(self, config, devices):
      assert not alive, 'devices hold one step at a time'
      alive.add(self)
      self.mesh = type('Mesh', (), dict(size=len(devices)))
      assert config.input.batch == 4 * len(devices) and max(config.mesh.values()) == len(devices)
      text = 'ENTRY %main (a: f32[4]) -> f32[4] {\n  %b = f32[4]{0} all-reduce(%a), replica_groups={}\n}\n'
      self.compiled = type('Compiled', (), dict(as_text=lambda _: text))()

    def __call__(self):
      pass

  monkeypatch.setattr(scaling, 'Step', Step)
  monkeypatch.setattr(scaling.turns, 'turn', lambda step, steps: scaling.turns.Turn(pace[step.mesh.size], 0))
  found = scaling.measure(make(), devices=6, steps=1)
  assert [(row['axis'], row['devices']) for row in found['rows']] == [
    (a, n) for a in ('data', 'fsdp') for n in (1, 2, 4)
  ]
  np.testing.assert_allclose([row['efficiency'] for row in found['rows']], [1, 0.8, 0.5] * 2)
  assert [row['sent_bytes'] for row in found['rows'][:3]] == [{}, {'all-reduce': 16.0}, {'all-reduce': 24.0}]
  assert 'mean nothing' in '\n'.join(scaling.lines(found))
  html = measurements.save(str(tmp_path / 'scaling.json'), 'Scaling', found, scaling.parts(found)).read_text()
  assert '80.0%' in html and 'all-reduce 24.0 bytes' in html and 'devices 4' in html


def test_devices_that_are_not_there_are_refused():
  with pytest.raises(UserError, match='devices=1000, but there are 8'):
    scaling.measure(make(), devices=1000, steps=1)
