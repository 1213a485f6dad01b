"""The kernel for TPUs: interpreted by JAX it is a softmax; their own compiler takes it, and says how long it takes."""

import importlib.util
import os
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from tests.models.test_attention import by_hand, draw, with_gradient
from tests.support.paths import ROOT
from tvts_jax import sharding
from tvts_jax.models import attention, short_attention
from tvts_jax.plan.__main__ import NO_TPU

DEVICES = 8


TPU = types.SimpleNamespace(platform='tpu', device_kind='TPU v5 lite')


@pytest.fixture(autouse=True)
def interpreted():
  with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams()), attention.compiling_for(TPU):
    yield


def inputs(*shape):
  return draw(*shape), draw(*shape)[::-1] * 2, draw(*shape)[:, ::-1] - 1, draw(1, *shape)[0]


def error(found, expected) -> float:
  return np.linalg.norm(np.float32(found) - expected) / np.linalg.norm(expected)


# Heads that share lanes, and fill them or not; that have all of them; that do not divide them. Tokens odd and even.
SHAPES = {'two in one': (12, 2, 64), 'one left over': (13, 3, 64), 'four in one': (9, 5, 32)}
SHAPES |= {'one in one': (11, 2, 128), 'none in one': (8, 2, 80)}
CASES = [('two in one', 'masked'), ('one left over', 'whole'), ('four in one', 'causal'), ('none in one', 'masked')]
MORE = [(name, how) for name in SHAPES for how in ('whole', 'masked', 'causal') if (name, how) not in CASES]


@pytest.mark.parametrize(('name', 'how'), [*CASES, *(pytest.param(*one, marks=pytest.mark.long) for one in MORE)])
def test_it_is_a_softmax_with_its_gradient(name, how):
  shape = 2, *SHAPES[name]
  q, k, v, toward = inputs(*shape)
  length_B, causal = np.array([shape[1], 3], np.int32) if how == 'masked' else None, how == 'causal'
  ours = lambda *qkv: short_attention.attend(*qkv, length_B, causal)
  exact = lambda *qkv: by_hand(*qkv, length_B, causal)
  for found, expected in zip(*(with_gradient(f, toward, q, k, v) for f in (ours, exact)), strict=True):
    np.testing.assert_allclose(found, expected, atol=2e-5)

  # In bfloat16 it is as near to what is exact as XLA is.
  low = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
  mask_BxN = None if length_B is None else np.arange(shape[1]) < length_B[:, None]
  xlas = lambda *qkv: attention.plain(*qkv, mask_BxN, causal=causal)
  expected = with_gradient(exact, toward, *map(np.float32, low))
  for found, beside, right in zip(with_gradient(ours, toward, *low), with_gradient(xlas, toward, *low), expected):
    assert error(found, right) < 1.1 * error(beside, right) < 0.01


def test_queries_may_be_fewer_than_tokens():
  """As those of tubelets that also ask [CLS]."""
  q, k, v, toward = draw(2, 12, 3, 64), draw(2, 13, 3, 64) * 2, draw(2, 13, 3, 64) - 1, draw(1, 2, 12, 3, 64)[0]
  length_B = np.array([13, 4], np.int32)
  ours = with_gradient(lambda *qkv: short_attention.attend(*qkv, length_B), toward, q, k, v)
  for found, expected in zip(ours, with_gradient(lambda *qkv: by_hand(*qkv, length_B), toward, q, k, v), strict=True):
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(
  'mesh', [{'data': 2, 'fsdp': 2, 'tensor': 2}, pytest.param({'data': 8}, marks=pytest.mark.long)]
)
def test_each_device_of_a_mesh_has_its_own_clips_and_heads(mesh):
  q, k, v, toward = inputs(8, 64, 4, 16)
  mask_BxN = np.arange(64) < np.array([64, 3, 5, 64, 33, 1, 64, 2])[:, None]
  expected = with_gradient(lambda *qkv: attention.plain(*qkv, mask_BxN), toward, q, k, v)
  with jax.set_mesh(sharding.make_mesh(mesh)):
    assert [call.kernel for call in attention.calls(attention.attend, q, k, v, mask_BxN)] == ['pallas']
    found = with_gradient(lambda *qkv: attention.attend(*qkv, mask_BxN), toward, q, k, v)
  for ours, theirs in zip(found, expected, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


COMPILE = """
import jax, jax.numpy as jnp
from jax.experimental import topologies
from tvts_jax.models import short_attention
mesh = jax.sharding.Mesh(topologies.get_topology_desc('v5e:2x2', platform='tpu').devices[:1], ('data',))
x = jax.ShapeDtypeStruct((2, 393, 12, 64), jnp.bfloat16, sharding=jax.NamedSharding(mesh, jax.P()))
gradient = jax.grad(lambda *qkv: short_attention.attend(*qkv).astype(jnp.float32).sum(), (0, 1, 2))
jax.jit(gradient).lower(x, x, x).compile()
"""


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason="needs libtpu: pip install -e '.[tpu]'")
def test_the_compiler_of_tpus_schedules_it_densely(tmp_path):
  """A clip of ViT-B: 12 heads, 393 tokens. An instruction takes a cycle; of the backward pass the matrix units alone
  need 98 % of that."""
  dump = f'--xla_jf_dump_to={tmp_path} --xla_jf_dump_llo_text=true'
  told = {**NO_TPU, 'JAX_PLATFORMS': 'cpu', 'LIBTPU_INIT_ARGS': dump, 'PYTHONPATH': str(ROOT)}
  subprocess.run([sys.executable, '-c', COMPILE], env={**os.environ, **told}, check=True, timeout=300)
  counts = {}
  for file in tmp_path.glob('*short_attention*-final_bundles.txt'):
    if 'schedule-analysis' not in file.name:
      name = 'gradient' if 'gradient' in file.name else 'forward'
      counts[name] = len(re.findall(r'^\s*0x[0-9a-f]+', file.read_text(), re.MULTILINE))
  assert 0 < counts['forward'] < 12_000 and 0 < counts['gradient'] < 24_000, counts
