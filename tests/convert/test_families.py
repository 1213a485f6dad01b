"""Published weights of other models: numbers of their authors' own code, their own layouts, and each other's files."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from tests.support import weights
from tests.support.paths import GOLDEN
from tvts_jax import convert, objectives, optim
from tvts_jax.convert import export, load, names
from tvts_jax.convert.families import FAMILIES
from tvts_jax.models import tvts
from tvts_jax.models.encoders import encoder
from tvts_jax.models.encoders.vit import sincos

torch = pytest.importorskip('torch')

ZOO = GOLDEN / 'zoo'
TOLERANCE = {'float32': 2e-5, 'float64': 1e-12}
ENCODERS = ('video', 'text', 'video_projection', 'text_projection')
FEW = dict(dim=8, n_heads=2, hidden_dim=8, n_layers=1, vocab_size=5, max_position_embeddings=4)
HEADS = dict(video=dict(heads=4), text=dict(n_heads=3))


@dataclasses.dataclass(frozen=True)
class Case:
  """A file, what it does not say, where its numbers are, and what of ours each of them is."""

  family: str
  file: str
  gold: str
  settings: dict
  keys: dict  # Their key → ours of the outputs.
  tokens: str = ''
  frames: int | None = None  # Of the golden clip, from its begin; all by default.


DISTILBERT = {'out/video': 'video_embed', 'out/text': 'text_embed'}
CLIP_KEYS = {'out/video_mean': 'video_embed', 'out/text': 'text_embed'}
TVTSV2 = {'out/video': 'video_embed', 'out/text': 'text_embed', 'out/order': 'sort_logits'}
WITHOUT_TEXT = dict(text=FEW)
MAE = dict(video=dict(heads=4, image_size=24), text=FEW)
CASES = {
  'frozen': Case('frozen', 'frozen_tiny.pth.tar', 'frozen', HEADS, {'mid/video/norm': 'video_tokens', **DISTILBERT}),
  'miles': Case('miles', 'miles_tiny.pth', 'miles', HEADS, {'mid/video/norm': 'video_tokens', **DISTILBERT}),
  'mcq': Case('mcq', 'mcq_tiny.pth', 'mcq', HEADS, {'mid/video/norm': 'video_tokens', **DISTILBERT}),
  'mcq_clip': Case('mcq_clip', 'mcq_clip_tiny.pth', 'mcq_clip', dict(video=dict(frames=3)), DISTILBERT),
  'clip': Case('clip', 'clip_openai_tiny.pt', 'clip_openai', dict(video=dict(frames=3)), CLIP_KEYS),
  'clip, a frame': Case(
    'clip', 'clip_openai_tiny.pt', 'clip_openai', dict(video=dict(frames=1)), {'out/image': 'video_embed'}, frames=1
  ),
  'clip_hf': Case('clip_hf', 'clip_hf_tiny', 'clip_openai', dict(video=dict(frames=3)), CLIP_KEYS),
  'openclip': Case('openclip', 'clip_openclip_tiny', 'clip_openclip', dict(video=dict(frames=3)), CLIP_KEYS),
  'openclip, trained': Case(
    'openclip',
    'clip_openclip_tiny/epoch_32.pt',
    'clip_openclip',
    dict(video=dict(heads=4, frames=3), text=dict(n_heads=3)),
    CLIP_KEYS,
  ),
  'tvtsv2, B': Case('tvtsv2', 'tvtsv2_b_tiny.pth', 'tvtsv2_b', HEADS, TVTSV2 | {'mid/video/ln_post': 'video_tokens'}),
  'tvtsv2, H': Case(
    'tvtsv2',
    'tvtsv2_h_tiny.pth',
    'tvtsv2_h',
    dict(video=dict(heads=4), text=dict(n_heads=4), sort_heads=4),
    TVTSV2 | {'mid/video/ln_post': 'clip'},
  ),
  'svt': Case(
    'svt',
    'svt_tiny.pth',
    'svt',
    dict(video=dict(heads=4), **WITHOUT_TEXT),
    {'mid/video/norm': 'by_place', 'out/video': 'clip'},
  ),
  'videomae': Case(
    'videomae',
    'videomae_pretrain_tiny.pth',
    'videomae',
    MAE,
    {'pretrain/all/norm': 'tubelets', 'pretrain/all/mean_of_norm': 'clip'},
  ),
  'videomae_finetuned': Case(
    'videomae_finetuned', 'videomae_finetune_tiny.pth', 'videomae', MAE, {'finetune/out/feature': 'clip'}
  ),
  'videomae_hf': Case(
    'videomae_hf', 'videomae_hf_pretrain_tiny', 'videomae', WITHOUT_TEXT, {'pretrain/all/norm': 'tubelets'}
  ),
  'videomae_hf_finetuned': Case(
    'videomae_hf_finetuned', 'videomae_hf_finetune_tiny', 'videomae', WITHOUT_TEXT, {'finetune/out/feature': 'clip'}
  ),
}
CASES['tvtsv2, B'].settings.setdefault('sort_heads', 4)


@functools.cache
def gold(name):
  return dict(np.load(ZOO / f'{name}_tiny.npz'))


def family_flag(case):
  """Only of MCQ from CLIP no name tells that it is not CLIP."""
  return 'mcq_clip' if case.family == 'mcq_clip' else ''


def imported(case, path, **changes):
  settings = case.settings | {'dtype': 'float32'}
  settings |= {part: {**settings.get(part, {}), **own} for part, own in changes.items()}
  return convert.import_model(path, settings, family=family_flag(case))


@functools.cache
def loaded(name):
  return imported(CASES[name], ZOO / CASES[name].file)


def batch_of(case, config):
  """The golden clips and texts as a batch of ours: with one text each, or all transcripts of a clip."""
  numbers, video = gold(case.gold), config.video
  clips = rearrange(numbers['in/video'][:, : case.frames].astype(np.float64), 'b t c h w -> b t h w c')
  patches = np.asarray(encoder.patchify(clips, video))
  positions = np.tile(np.arange(patches.shape[1], dtype=np.int32), (len(patches), 1))
  if 'in/keep_ind' in numbers:
    positions = np.concatenate([numbers['in/keep_ind'] + t * video.places for t in range(video.slots)], axis=1)
    patches = np.take_along_axis(patches, positions[..., None], 1)
  return {'patches': patches, 'positions': positions.astype(np.int32)}, texts_of(numbers, len(patches))


def texts_of(numbers, clips):
  if 'in/input_ids' in numbers:
    tokens, mask = numbers['in/input_ids'], numbers['in/attention_mask'] > 0
  elif 'in/tokens' in numbers:
    tokens = numbers['in/tokens']
    mask = np.arange(tokens.shape[1]) <= tokens.argmax(1)[:, None]
  else:
    tokens = np.zeros((clips, 2), np.int64)
    mask = tokens == 0
  transcripts = len(tokens) // clips if len(tokens) % clips == 0 else 1
  by_clip = lambda x: rearrange(x, '(k b) l -> b k l', k=transcripts)
  return {'tokens': by_clip(tokens).astype(np.int32), 'token_mask': by_clip(mask)}


def outputs(case, config, params, dtype):
  config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
  video, text = batch_of(case, config)
  cast = lambda leaf: jnp.asarray(leaf, dtype)
  model, params = tvts.build(config), jax.tree.map(cast, params)
  video['patches'] = cast(video['patches'])
  if len(text['tokens']) == len(video['patches']):
    found = jax.jit(model.apply)(params, video | text)
  else:
    found = jax.jit(model.embed_video)(params, video) | {
      'text_embed': jax.jit(model.embed_text)(params, *text.values()),
    }
  tokens = found['video_tokens']
  found |= {'clip': tokens[:, 0], 'tubelets': tokens[:, 1:]}
  by_place = rearrange(tokens[:, 1:], 'b (t n) d -> b (n t) d', t=config.video.slots)
  return found | {'by_place': jnp.concatenate([tokens[:, :1], by_place], axis=1)}


def close(ours, theirs, tolerance, key=''):
  gap = np.abs(np.asarray(ours, np.float64) - theirs) / np.maximum(1, np.abs(theirs))
  assert ours.shape == theirs.shape and gap.max() <= tolerance, f'{key}: {gap.max()}'


def check(case, found, dtype):
  for key, ours in case.keys.items():
    exact = f'f64/{key}'
    theirs = gold(case.gold)[exact if dtype == 'float64' and exact in gold(case.gold) else key]
    # What transformers wrote has another epsilon, and no golden in float64.
    wide = dtype == 'float64' and theirs.dtype == np.float64 and not case.file.startswith('videomae_hf')
    close(found[ours], theirs, TOLERANCE['float64' if wide else 'float32'], key)


# Of files that differ from others only in how they are wrapped.
ALIKE = ('miles', 'clip, a frame', 'clip_hf', 'openclip', 'openclip, trained', 'videomae_hf', 'videomae_hf_finetuned')
EACH = pytest.mark.parametrize('name', [pytest.param(n, marks=[pytest.mark.long] if n in ALIKE else []) for n in CASES])


@pytest.mark.parametrize('dtype', [pytest.param('float32', marks=pytest.mark.long), 'float64'])
@EACH
def test_numbers_are_those_of_the_authors(name, dtype):
  config, params, _ = loaded(name)
  with jax.enable_x64(dtype == 'float64'):
    check(CASES[name], outputs(CASES[name], config, params, dtype), dtype)


MISTAKES = {
  'frozen': ({'activation': 'quick_gelu'}, {'eps': 1e-5}, {'heads': 8}, {'time': False}),
  'svt': ({'eps': 1e-5}, {'heads': 8}),
  'videomae': ({'eps': 1e-5}, {'heads': 8}, {'pool': 'norm_of_mean'}),
  'clip': ({'activation': 'gelu'}, {'eps': 1e-6}),
  'tvtsv2, B': ({'sorts': 'bare'}, {'activation': 'gelu'}),
  'tvtsv2, H': ({'sorts': 'tokens'},),
}


@pytest.mark.long
@pytest.mark.parametrize('name, changes', [(name, each) for name, mistakes in MISTAKES.items() for each in mistakes])
def test_the_tolerance_sees_what_is_commonly_done_wrong(name, changes):
  config, params, _ = loaded(name)
  if 'heads' in changes:
    params = jax.tree.map(lambda leaf: leaf, params)
    reheaded = lambda leaf, path: leaf.reshape(names.spec(other)[path].shape)
    other = dataclasses.replace(config, video=dataclasses.replace(config.video, **changes))
    params = names.unflatten(
      {
        path: reheaded(leaf, path) if 'attn' in path else leaf
        for path, leaf in names.flatten(params).items()
        if path in names.spec(other)
      }
    )
  config = dataclasses.replace(config, video=dataclasses.replace(config.video, **changes))
  with pytest.raises(AssertionError):
    check(CASES[name], outputs(CASES[name], config, params, 'float32'), 'float32')


@EACH
def test_weights_leave_as_they_came(name, tmp_path):
  case, (config, params, _) = CASES[name], loaded(name)
  left = export.save_family(tmp_path / 'again', config, params, case.family)
  again, back, reports = imported(case, tmp_path / 'again')
  assert again == config and set(left) == set(params) - set(FAMILIES[case.family].parts)
  weights.equal(
    {part: params[part] for part in params if part not in left},
    {part: back[part] for part in params if part not in left},
  )
  assert not reports[0].kept


@pytest.mark.parametrize('name', [name for name, case in CASES.items() if family_flag(case) == ''])
def test_a_file_is_refused_by_name_as_any_other(name):
  case = CASES[name]
  title = FAMILIES[FAMILIES[case.family].like or case.family].title
  for other in FAMILIES:
    if other == case.family or {other, case.family} <= {'clip', 'mcq_clip', 'openclip'}:
      continue
    with pytest.raises(convert.ConvertError, match=f'is {title}, not {FAMILIES[other].title}'):
      convert.import_model(ZOO / case.file, family=other)


NAMES = {
  'frozen': 'frozen_names',
  'miles': 'miles_names',
  'mcq': 'mcq_names',
  'tvtsv2, B': 'tvtsv2_b16_names',
  'tvtsv2, H': 'tvtsv2_h14_names',
  'clip': 'clip_openai_b16_names',
  'clip_hf': 'hf_clip_b16_names',
  'openclip': 'openclip_vit_h_14_names',
  'svt': 'svt_backbone_names',
  'videomae': 'videomae_b_pretrain_names',
  'videomae_finetuned': 'videomae_b_finetuned_400_names',
  'videomae_hf': 'hf_videomae_base_pretrain_names',
  'videomae_hf_finetuned': 'hf_videomae_base_finetuned_400_names',
}


@pytest.mark.parametrize('name', NAMES)
def test_names_and_shapes_are_those_of_the_published_models(name, tmp_path):
  """Their geometry is read off their shapes, and our model of it has those, each once."""
  from tvts_jax.convert import geometry, read_weights
  from tvts_jax.convert.source import Source
  from tvts_jax.convert.tensors import Tensor

  lines = [line.split('\t') for line in (ZOO / 'names' / f'{NAMES[name]}.txt').read_text().splitlines() if '\t' in line]
  tensors = {
    line[0]: Tensor(tuple(map(int, filter(None, line[1][1:-1].split(',')))), np.dtype(np.float32), None)
    for line in lines
  }
  family = FAMILIES[CASES[name].family]
  tensors = read_weights.unwrapped(tensors)
  assert read_weights.recognised(tensors) == (family.like or CASES[name].family)
  tensors = {
    key: tensor for key, tensor in tensors.items() if not any(names.fits(pattern, key) for pattern in family.unused)
  }
  source = Source(pathlib.Path(name), CASES[name].family, family.title, tensors, {})
  config = tvts.TVTSConfig.from_dict(family.settings(geometry.Shapes(source)))
  spec = names.spec(config)
  rows = [row for row in family.rows(config) if set(row.ours) <= set(spec)]
  ours = {key: names.their_shape(row, spec, config) for row in rows for _, key in names.layers(row, spec)}
  assert ours == {key: tensor.shape for key, tensor in tensors.items()}
  heads = {'tvtsv2, H': 16, 'openclip': 16}.get(name, 12)
  assert config.video.heads == heads and config.video.image_size == 224


@pytest.mark.parametrize('rows', [1568, 72])
def test_waves_are_those_of_videomae(rows):
  config = loaded('videomae')[0].video
  if rows == 72:
    np.testing.assert_allclose(sincos(config), gold('videomae')['sincos/table_here'], atol=1e-7)
    return
  base = dataclasses.replace(config, width=768, heads=12, patch=16, image_size=224)
  table = sincos(base)[gold('videomae')['sincos/rows']]
  np.testing.assert_allclose(table, gold('videomae')['sincos/table_1568x768'], atol=1e-6)


@pytest.mark.parametrize('key, frames, size', [
  ('out/video_2_frames_time_nearest', 2, 48),
  ('out/video_smaller_crop_positions_nearest', 4, 32),
  ('out/video_more_frames_time_nearest', 7, 48),
])  # fmt: skip
def test_positions_of_svt_are_those_of_the_nearest_place(key, frames, size):
  config, params, _ = loaded('svt')
  old = config.video
  video = dataclasses.replace(old, frames=frames, image_size=size)
  clip = gold('svt')['in/video_more_frames' if frames > old.frames else 'in/video'][:, :frames, :, :size, :size]
  patches = np.asarray(encoder.patchify(rearrange(clip, 'b t c h w -> b t h w c'), video))
  positions = np.tile(np.arange(patches.shape[1], dtype=np.int32), (len(patches), 1))
  module, resized = video.module(), video.resized(params['video'], old)
  tokens, _ = jax.jit(lambda params: module.apply({'params': params}, patches, positions))(resized)
  close(tokens[:, 0], gold('svt')[key], TOLERANCE['float32'])


@pytest.mark.long
@pytest.mark.parametrize('size, file, family', [('b', 'openai', ''), ('h', 'openclip', 'openclip')])
def test_a_clip_becomes_what_the_constructor_of_tvtsv2_makes_of_it(size, file, family):
  numbers, config = dict(np.load(ZOO / f'tvtsv2_{size}_from_clip_tiny.npz')), loaded(f'tvtsv2, {size.upper()}')[0]
  params = load.initial(config, 0, names.PARTS)
  for part in ('video', 'text', 'video_projection', 'text_projection'):
    params, report = convert.load_part(
      params, config, part, ZOO / f'tvtsv2_{size}_from_clip_tiny_{file}.pt', family=family
    )
    if part == 'video':
      assert len(report.kept) == 11 and all('time' in name for name in report.kept)
  params['video']['time_position'] = numbers['temporal_embedding']
  frames = numbers['in/frames']
  patches = np.asarray(encoder.patchify(frames, config.video))
  positions = np.tile(np.arange(patches.shape[1], dtype=np.int32), (len(patches), 1))
  video = jax.jit(tvts.build(config).embed_video)(params, {'patches': patches, 'positions': positions})
  close(video['video_embed'], numbers['out/video'], TOLERANCE['float32'])
  tokens = numbers['in/tokens'].astype(np.int32)
  mask = np.arange(tokens.shape[1]) <= tokens.argmax(1)[:, None]
  text = jax.jit(tvts.build(config).embed_text)(params, tokens[:, None], mask[:, None])
  close(text, numbers['out/text_per_transcript'], TOLERANCE['float32'])


def test_an_archive_of_torchscript_holds_what_its_state_dict_does(tmp_path):
  """As OpenAI publishes CLIP: a traced module, with three numbers beside the weights, and code that is not unpacked."""
  root = torch.nn.Module()
  for name, tensor in torch.load(ZOO / 'clip_openai_tiny.pt').items():
    *path, last = name.split('.')
    module = root
    for part in path:
      if not hasattr(module, part):
        module.add_module(part, torch.nn.Module())
      module = getattr(module, part)
    module.register_parameter(last, torch.nn.Parameter(tensor))
  for name, number in (('input_resolution', 24), ('context_length', 16), ('vocab_size', 160)):
    root.register_buffer(name, torch.tensor(number))
  root.forward = lambda x: x + root.logit_scale
  torch.jit.trace(root, torch.ones(1)).save(tmp_path / 'ViT.pt')
  config, params, (report,) = imported(CASES['clip'], tmp_path / 'ViT.pt')
  assert config == loaded('clip')[0] and 'TorchScript' in str(report)
  weights.equal({part: params[part] for part in ENCODERS}, {part: loaded('clip')[1][part] for part in ENCODERS})
  assert set(report.unused) == {'logit_scale', 'input_resolution', 'context_length', 'vocab_size'}


@pytest.mark.parametrize('name, kind', [('clip_hf', 'CLIPModel'), ('videomae_hf', 'VideoMAEModel')])
def test_classes_of_transformers_open_what_leaves_and_agree(name, kind, tmp_path):
  transformers = pytest.importorskip('transformers')
  config, params, _ = loaded(name)
  export.save_family(tmp_path / 'hf', config, params, CASES[name].family)
  theirs, report = getattr(transformers, kind).from_pretrained(tmp_path / 'hf', output_loading_info=True)
  assert not report['missing_keys'] and not report['mismatched_keys']
  numbers, ours = gold(CASES[name].gold), outputs(CASES[name], config, params, 'float32')
  clip = torch.tensor(numbers['in/video'], dtype=torch.float32)
  with torch.no_grad():
    if kind == 'CLIPModel':
      tokens = torch.tensor(numbers['in/tokens'])
      images = theirs.visual_projection(theirs.vision_model(clip.flatten(0, 1)).pooler_output)
      images = images.unflatten(0, clip.shape[:2])
      texts = theirs.text_projection(theirs.text_model(tokens).pooler_output)
      close(np.asarray(ours['video_embed']), images.mean(1).numpy(), 1e-5)
      close(np.asarray(ours['text_embed']), texts.numpy(), 1e-5)
    else:
      close(np.asarray(ours['tubelets']), theirs(clip).last_hidden_state.numpy(), 1e-5)


@pytest.mark.long
def test_a_bert_equals_that_of_transformers(tmp_path):
  transformers = pytest.importorskip('transformers')
  torch.manual_seed(0)
  sizes = dict(vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
  theirs = transformers.BertModel(transformers.BertConfig(**sizes, max_position_embeddings=10)).eval()
  for parameter in theirs.parameters():
    parameter.data += 0.1 * torch.randn_like(parameter)
  theirs.save_pretrained(tmp_path / 'bert')
  config, params, (report,) = convert.import_model(tmp_path / 'bert', {'dtype': 'float32'}, size='tiny')
  assert config.text_encoder == 'bert' and config.text.n_heads == 4
  assert set(report.unused.values()) == {'a layer that BERT classifies by'}
  rng = np.random.default_rng(0)
  tokens, mask = rng.integers(0, 40, (3, 7)).astype(np.int32), np.arange(7) < np.array([7, 3, 1])[:, None]
  ours = jax.jit(lambda params: config.text.module().apply({'params': params}, tokens, mask))(params['text'])
  with torch.no_grad():
    states = theirs(torch.tensor(tokens), torch.tensor(mask)).last_hidden_state
  close(ours, states[:, 0].numpy(), 1e-5)
  export.save_family(tmp_path / 'again', config, params, 'bert')
  again = transformers.BertModel.from_pretrained(tmp_path / 'again', add_pooling_layer=False)
  assert all(
    torch.equal(again.state_dict()[name], tensor)
    for name, tensor in theirs.state_dict().items()
    if 'pooler' not in name
  )


# Of three steps: theirs are of float32, where what is hardly a gradient is divided by its own size.
SLIP = 0.02


@pytest.mark.long
@pytest.mark.parametrize('size', ['B', 'H'])
def test_three_steps_of_tvtsv2_are_those_of_its_optimizer(size):
  """Four groups, and all but the last text block frozen: losses before each step, and how far each parameter goes."""
  case, (config, params, _) = CASES[f'tvtsv2, {size}'], loaded(f'tvtsv2, {size}')
  numbers = gold(case.gold)
  video, text = batch_of(case, config)
  batch = video | text | {'order': numbers['in/label'].astype(np.int32)}
  groups = (
    ('^video/blocks/time_', {'lr': 1.0}),
    ('^text/blocks/', {'lr': (0.0, 1e-3)}),
    ('^(video|text)', {'lr': 1e-3}),
  )
  how = dict(name='reference_adamw', lr=1e-4, eps=1e-6, weight_decay=0.05, no_decay=r'(bias|scale)$', groups=groups)
  loss_fn = objectives.build({'contrastive': {'temperature': 0.05}, 'sort': {'weight': 2.0}})
  with jax.enable_x64(True):
    config = dataclasses.replace(config, dtype='float64', param_dtype='float64')
    model = tvts.build(config)
    start = params = jax.tree.map(lambda leaf: jnp.asarray(leaf, 'float64'), params)
    tx = optim.build(optim.OptimConfig(**how), params, 100)

    @jax.jit
    def step(params, state, nth):
      loss = lambda params: loss_fn(model.apply(params, batch), batch)
      (total, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
      updates, state = tx.update(gradient, state, params, step=nth)
      told = metrics['contrastive/loss'], 2 * metrics['sort/loss'], total
      return jax.tree.map(jnp.add, params, updates), state, jnp.stack(told)

    state, told = tx.init(params), []
    for nth in range(4):
      before = params
      params, state, losses = step(params, state, nth)
      told.append(losses)
    np.testing.assert_allclose(told, numbers['train/traj_align_sort_total'], rtol=2e-5)
    rows = FAMILIES['tvtsv2'].rows(config)
    ours, first = (names.apply_table(rows, config, names.flatten(jax.device_get(tree))) for tree in (before, start))
  moved = dict(zip(numbers['param_names'].tolist(), numbers['train/moved_max'].tolist()))
  assert set(moved) == set(ours)
  for name, most in moved.items():
    assert np.abs(ours[name] - first[name]).max() == pytest.approx(most, rel=SLIP, abs=2e-7), name
  for key in (key for key in numbers if key.startswith('train/after3/')):
    close(ours[key.removeprefix('train/after3/')], numbers[key], SLIP * 3 * how['lr'], key)
