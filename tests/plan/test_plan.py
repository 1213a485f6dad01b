"""Plans: what is read out of compiled programs against numbers by hand, and verdicts that follow the memory."""

import dataclasses
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs import pretrain
from tests.faults import small
from tests.models.test_tvts import make
from tests.support import folders
from tests.support.paths import ROOT
from tvts_jax import config as config_lib
from tvts_jax import sharding
from tvts_jax.errors import UserError
from tvts_jax.machine import CHIPS
from tvts_jax.models import flops
from tvts_jax.plan import __main__ as plan_lib
from tvts_jax.plan import bill, gpu, hlo

DEVICES = 8

LOOP = """HloModule step

%add (a: f32[], b: f32[]) → f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8,4])) → (s32[], f32[8,4]) {
  %reduced = f32[8,4]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add
  %work = f32[8,4]{1,0} fusion(%reduced), kind=kLoop, calls=%add, backend_config={"estimated_cycles":"100"}
  %turned = f32[4,8]{1,0} transpose(%work), dimensions={1,0}
  %timed = f32[8,4]{1,0} fusion(%work), cost=[{"exec_time_us":9,"name":""},{"exec_time_us":2.5,"name":"sol"}]
  %attention = f32[8,4]{1,0} custom-call(%work), custom_call_target="__cudnn$fmhaSoftmax", "estimated_cycles":"0"
  ROOT %next = (s32[], f32[8,4]{1,0}) tuple(%i, %work)
}

%beside (p: f32[8,4]) → f32[8,4] {
  %begun = bf16[8,4]{1,0} all-gather(%p), channel_id=2, replica_groups=[1,4]<=[4], dimensions={0}
}

%all-reduce-scatter.1.clone (p: bf16[8,4]) → bf16[2,4] {
  %summed = bf16[8,4]{1,0} all-reduce(%p), channel_id=3, replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %own = bf16[2,4]{1,0} dynamic-slice(%summed, %index), dynamic_slice_sizes={2,4}
}

%condition (p: (s32[], f32[8,4])) → pred[] {
  %limit = s32[] constant(6)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (a: f32[8,4]) → f32[8,4] {
  %loop = (s32[], f32[8,4]{1,0}) while(%init), condition=%condition, body=%body
  %gathered = (bf16[2,4]{1,0}, bf16[8,4]{1,0}) all-gather-start(%y), channel_id=2, replica_groups=[1,4]<=[4]
  %else = f32[8,4]{1,0} fusion(%gathered), kind=kCustom, calls=%beside
  %whole = bf16[2,4]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1.clone
  %scattered = f32[2,4]{1,0} reduce-scatter(%z), replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}, to_apply=%add
  %moved = f32[8,4]{1,0} collective-permute(%z), source_target_pairs={{0,1},{1,0}}
  %away = (f32[8,4]{1,0}, u32[], token[]) send(%z, %after), frontend_attributes={handler_name="xla_megascale_runtime"}
  %kernel = f32[8,4]{1,0} custom-call(%z), custom_call_target="some kernel"
  %memory = f32[8,4]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %odd = f32[8,4]{1,0} fusion(%z), kind=kLoop, calls=%add, backend_config={"estimated_cycles":"9223372036854775807"}
  ROOT %end = f32[8,4]{1,0} fusion(%z), kind=kLoop, calls=%add, backend_config={"estimated_cycles":"7"}
}
"""


def test_a_program_is_read_as_often_as_it_runs():
  step = hlo.read(LOOP, devices=4)
  assert len(step.collectives) == 6, 'that which runs beside other work counts once'
  (of_tpus,) = (each for each in step.collectives if (each.kind, each.size) == ('reduce-scatter', 4))
  assert of_tpus.bytes == 2 * 4 * 2 and of_tpus.sent() == 3 * 2 * 4 * 2
  found = {each.kind: each for each in step.collectives if each is not of_tpus}
  assert found['all-reduce'].bytes == 6 * 8 * 4 * 4 and found['all-reduce'].sent() == 6 * 8 * 4 * 4
  assert found['all-gather'].bytes == 8 * 4 * 2 and found['all-gather'].sent() == 8 * 4 * 2 * 3 / 4
  assert found['reduce-scatter'].sent() == 2 * 4 * 4 and found['reduce-scatter'].groups.tolist() == [[0, 2], [1, 3]]
  assert found['collective-permute'].sent() == 8 * 4 * 4
  assert found['send'].sent() == 8 * 4 * 4
  assert (step.cycles, step.uncounted) == (6 * 100 + 7, 2)
  assert (step.modelled, step.fused, step.copied) == (pytest.approx(6 * 2.5e-6), 6, 6 * 8 * 4 * 4)
  crossing = {kind for kind, each in found.items() if each.crosses(2)}
  assert crossing == {'all-gather', 'reduce-scatter', 'send'}


def test_groups_along_axes_of_a_mesh():
  given = "replica_groups=mesh['x'=4,'y'=1,'z'=2], device_ids=([2,4]T(1,0)) {'x'}, dimensions={0}"
  assert hlo.groups_of(given, 'all-gather').tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
  assert hlo.groups_of("replica_groups=mesh['x'=2,'y'=4] {'y':(1)2}, dim", 'all-gather').tolist() == [
    [0, 2],
    [1, 3],
    [4, 6],
    [5, 7],
  ]


def test_what_a_scanned_program_moves():
  """Weights that are split four ways are gathered twice a layer, and their gradient is summed over all devices."""
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 4})
  L, D, B = 5, 64, 32

  def loss(w_LxDxD, x_BxD):
    x_BxD, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x_BxD, w_LxDxD)
    return (x_BxD**2).sum()

  split, rows = NamedSharding(mesh, P(None, 'fsdp')), NamedSharding(mesh, P(('data', 'fsdp')))
  gradient = jax.jit(jax.grad(loss), in_shardings=(split, rows), out_shardings=split)
  shapes = jax.ShapeDtypeStruct((L, D, D), jnp.float32), jax.ShapeDtypeStruct((B, D), jnp.float32)
  step = hlo.read(gradient.lower(*shapes).compile().as_text(), 8)
  gathered = [each for each in step.collectives if each.kind == 'all-gather']
  assert sum(each.bytes for each in gathered) == 2 * L * D * D * 4
  assert all(each.groups.shape == (2, 4) and not each.crosses(4) for each in gathered)
  summed = [each for each in step.collectives if each.kind in ('all-reduce', 'reduce-scatter')]
  # The sum over `data` crosses slices of four; that over `fsdp` does not.
  assert {each.crosses(4) for each in summed} == {True, False}


def products(jaxpr) -> float:
  """FLOPs of all matrix products in a program without loops."""
  total = 0.0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    for value in equation.params.values():
      inner = value.jaxpr if hasattr(value, 'jaxpr') else value
      total += products(inner) if hasattr(inner, 'eqns') else 0.0
  return total


def test_the_formula_of_flops_counts_every_product_of_an_unrolled_step():
  model, params, batch = make(B=2, visible=24, scan=False)

  def total(params):
    outputs = model.apply(params, batch)
    return sum(outputs[name].sum() for name in ('video_embed', 'text_embed', 'sort_logits'))

  counted = products(jax.make_jaxpr(jax.grad(total))(params).jaxpr)
  assert 2 * flops.train_flops(model.config, 24, batch['tokens'].shape[-1]) == pytest.approx(counted, rel=0.01)


@pytest.fixture(scope='module')
def config():
  values = config_lib.base().unlock()
  values.model.video.update(width=32, depth=3, heads=2, patch=8, image_size=16, frames=4)
  values.model.text.update(vocab_size=64, dim=16, hidden_dim=32, n_layers=1, n_heads=2, max_position_embeddings=8)
  values.model.update(common=8, dtype='float32', sort_depth=1)
  values.input.update(batch=16, max_tokens=6)
  values.epochs = 2.0
  return config_lib.resolve(values)


@pytest.mark.long
def test_the_bill_of_a_data_parallel_step(config, monkeypatch):
  made = bill.plan(config, bill.Topology.parse('h100:8'), clips=800)
  params = sum(4 * leaf.size for leaf in jax.tree.leaves(bill.step_lib.describe(config, 10).shapes.params))
  assert made.memory['parameters'] == made.memory['gradient'] == params
  assert made.memory['optimizer'] == pytest.approx(2 * params, rel=0.01)
  # Each chip sends its gradient around the ring, to sum it and to spread it; the embeddings are next to nothing.
  sent = sum(value for name, value in made.moved.items() if name == 'all-reduce, link')
  assert sent == pytest.approx(2 * params * 7 / 8, rel=0.05)
  assert made.fits and not made.compiled and made.run['steps'] == 2 * 800 / 16
  assert made.floor[made.bound] == max(made.floor.values())
  assert made.floor['arithmetic'] == pytest.approx(made.clip_flops * 2 / 989e12)


def kept(config, **mesh):
  mesh = sharding.make_mesh({**config.mesh, **mesh}, jax.devices())
  parts = bill.step_lib.describe(config, 10)
  return bill.estimate(config, parts, sharding.state_layout(parts.shapes, config.sharding, mesh), mesh)


@pytest.mark.long
def test_memory_follows_what_is_kept_and_split(config):
  of = lambda remat: dataclasses.replace(config, model=dataclasses.replace(config.model, remat=remat))
  by_remat = [kept(of(remat))['kept for the backward pass'] for remat in ('none', 'matmuls', 'attention', 'full')]
  assert by_remat == sorted(by_remat, reverse=True) and len({*by_remat}) == 4
  twice = dataclasses.replace(config, input=dataclasses.replace(config.input, batch=32))
  assert kept(twice)['kept for the backward pass'] > 1.8 * by_remat[0]
  halves = kept(dataclasses.replace(twice, micro_batches=2))['kept for the backward pass']
  assert halves == pytest.approx(by_remat[0], rel=0.05)
  assert kept(config, data=2, fsdp=4)['optimizer'] < 0.6 * kept(config)['optimizer']


@pytest.mark.long
def test_what_does_not_fit_is_mended_by_the_least_change(config, monkeypatch):
  """By memory as it is estimated; what is compiled says nothing of it here."""
  monkeypatch.setattr(bill.step_lib, 'compile_step', lambda *given: types.SimpleNamespace(as_text=lambda: LOOP))
  at = kept(config)
  total = sum(at.values())
  # Room for all but what recomputing the most saves.
  full = dataclasses.replace(config, model=dataclasses.replace(config.model, remat='full'))
  room = (total + sum(kept(full).values())) / 2
  small = bill.CHIPS['h100']._replace(memory=room)
  topology = dataclasses.replace(bill.Topology.parse('h100:8'), chip=small)
  assert not (without := bill.plan(config, topology)).fits and 'steps' not in without.run
  words, found = plan_lib.mend(config, topology, None)
  assert words.startswith('--config.model.remat=') and found.fits and 'mesh' not in words
  hopeless = dataclasses.replace(bill.Topology.parse('h100:1'), chip=small._replace(memory=1000))
  assert plan_lib.mend(config, hopeless, None) is None


def crash(config, topology, clips, own=False, sparing=False):
  if own:
    os.kill(os.getpid(), signal.SIGSEGV)
  return 'an estimate'


def test_a_compiler_that_crashes_takes_nothing_with_it(config, monkeypatch):
  monkeypatch.setattr(bill, 'has_compiler', lambda topology: True)
  monkeypatch.setattr(bill, 'plan', crash)
  assert bill.apart(config, bill.Topology.parse('v6e:2x2'), None) == 'an estimate'


@pytest.mark.parametrize('text', ['v9:4x4', 'v5e', 'h100:2x4', '2*h100:8', 'v5e:4y4'])
def test_topologies_that_are_none(text):
  with pytest.raises(UserError, match='--topology='):
    bill.Topology.parse(text)


def test_topologies():
  two = bill.Topology.parse('2*v5e:16x16')
  assert (two.devices, two.linked, two.slices, two.is_tpu) == (512, 256, 2, True)
  assert bill.Topology.parse('h200:64').linked == 8 and bill.Topology.parse('h200:4').linked == 4


@pytest.mark.long
def test_the_command(tmp_path):
  """Prints a verdict for each topology and a table, and ends with 0 only if all fit."""
  command = [sys.executable, '-m', 'tvts_jax.plan', '--config=configs/demo.py', '--topology=h100:1,h200:2']
  small = ['--config.model.video.depth=1', '--config.model.sort_depth=1', '--config.model.text.n_layers=1']
  done = subprocess.run([*command, *small, f'--out={tmp_path}/plan.json'], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]
  assert 'h100:1: 1 chip as one device' in done.stdout and 'h200:2: 2 chips as data 2' in done.stdout
  assert done.stdout.count('fits: ') == 2 and 'clips/s' in done.stdout
  bills = json.loads((tmp_path / 'plan.json').read_text())['bills']
  page = (tmp_path / 'plan.html').read_text()
  assert page.count('class="split"') == 4 and all(f'<h4>{one["topology"]} ' in page for one in bills)
  assert [one['devices'] for one in bills] == [1, 2] and all(math.isfinite(v) for v in bills[0]['floor'].values())


needs_libtpu = pytest.mark.skipif(
  not importlib.util.find_spec('libtpu'), reason="needs libtpu: pip install -e '.[tpu]'"
)


# Over all chips a sum of gradients is sent around twice; along one side of the slice each keeps a part, and sums that.
@needs_libtpu
@pytest.mark.parametrize(('fsdp', 'least', 'most', 'passed_on'), [(16, 3, 4, 0), (2, 2, 3.3, 0.01)])
def test_tpus_gather_split_weights_whole_and_twice(fsdp, least, most, passed_on, monkeypatch):
  """For the forward and for the backward pass, in bfloat16; gradients are summed in it."""
  for name, value in plan_lib.NO_TPU.items():
    monkeypatch.setenv(name, value)
  values = pretrain.get_config('size=H/14').unlock()
  values.model.video.depth, values.model.sort_depth, values.model.text.n_layers = 4, 1, 1
  values.model.remat, values.mesh.fsdp = 'full', fsdp
  config = config_lib.resolve(values)
  made = bill.apart(config, bill.Topology.parse('v5e:4x4'), None)
  assert made.compiled and made.fits
  weights = sum(2 * leaf.size for leaf in jax.tree.leaves(bill.step_lib.describe(config, 10).shapes.params))
  permuted = sum(sent for name, sent in made.moved.items() if name.startswith('collective-permute'))
  assert permuted <= passed_on * weights
  assert least * weights < sum(made.moved.values()) < most * weights, (made.moved, weights)


@needs_libtpu
def test_the_compiler_of_tpus_says_what_fits(tmp_path):
  command = [sys.executable, '-m', 'tvts_jax.plan', '--config=configs/demo.py', '--topology=v5e:2x2']
  run = lambda *more: subprocess.run([*command, *more], cwd=ROOT, env=os.environ, capture_output=True, text=True)
  small = run()
  assert small.returncode == 0 and "the chip's own compiler" in small.stdout and 'million cycles' in small.stdout
  large = run('--config.input.batch=262144', '--nomend')
  assert large.returncode == 3 and 'DOES NOT FIT: needs' in large.stdout


@pytest.mark.skipif(not gpu.has_compiler(), reason="needs XLA's compiler for GPUs: pip install -e '.[plan-gpu]'")
def test_the_compiler_of_gpus_says_what_a_tiny_step_takes(config):
  """Its gradients are summed over the box once, in bfloat16 for what is multiplied in it."""
  config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype='bfloat16'))
  made = bill.apart(config, bill.Topology.parse('h200:8'), None)
  assert made.compiled and made.fits and made.modelled > 0 and made.copied > 0
  assert made.fused > 0
  parameters = sum(leaf.size for leaf in jax.tree.leaves(bill.step_lib.describe(config, 10).shapes.params))
  summed = sum(sent for name, sent in made.moved.items() if name.startswith('all-reduce'))
  assert 2 * 2 * 7 / 8 * parameters < summed < 4 * 2 * 7 / 8 * parameters, made.moved
  state, batch = 12 * parameters, bill.plan(config, bill.Topology.parse('h200:8')).memory['batch']
  assert state + batch < made.peak_bytes < 3 * state + gpu.WORKSPACE


def test_chips_have_a_target_for_the_compiler_of_gpus():
  """The words of the proto that say what differs between them."""
  for name in ('a100', 'h100', 'h200'):
    text = gpu.target(CHIPS[name])
    assert f'device_memory_size: {CHIPS[name].memory:.0f} ' in text and f'"{CHIPS[name].kinds[0]}"' in text
  assert 'major: 8 minor: 0' in gpu.target(CHIPS['a100']) and 'core_count: 132' in gpu.target(CHIPS['h200'])


def test_an_epoch_has_the_clips_that_the_order_deals(tmp_path):
  made = [folders.record(f'clip {i}', window, height=16) for i in range(3) for window in range(1 + i)]
  folders.write(tmp_path / 'shards', {'train': [made]}, sampling=small.SAMPLING)
  counts = [
    plan_lib.clips_of(small.config(tmp_path, f'--config.input.epoch={epoch}')) for epoch in ('windows', 'videos')
  ]
  assert counts == [6, 3]


def test_the_page_of_larger_models_shows_what_is_kept():
  page, kept = (ROOT / 'docs/scaling.md').read_text(), json.loads((ROOT / 'docs/scaling.json').read_text())
  for row in kept['rows']:
    one = bill.Bill(**row['bill'])
    takes = f'{one.cycles / 1e6:.0f} M cycles' if one.cycles else f'{1e3 * one.modelled:.0f} ms'
    memory = f'{one.peak_bytes / 2**30:.1f} of {one.has_bytes / 2**30:.0f}'
    cells = [one.topology, row['model'], row['with'], memory, f'{sum(one.moved.values()) / 2**20:,.0f}', takes]
    assert one.compiled and one.fits and f'| {" | ".join(cells)} |' in page
  assert len(kept['rows']) == page.count(' of 131 |') + page.count(' of 75 |') + page.count(' of 16 |')
