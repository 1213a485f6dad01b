"""Weights out: what PyTorch and transformers make of an exported folder, over many geometries."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.support import weights
from tests.support.paths import ROOT
from tests.support.without import without
from tvts_jax import convert
from tvts_jax.convert import names, write_weights
from tvts_jax.convert.families import tvts as tvts_family
from tvts_jax.errors import UserError
from tvts_jax.files import appear
from tvts_jax.models.encoders import encoder

torch = pytest.importorskip('torch')

from safetensors.torch import load_file  # noqa: E402

from tvts_jax.convert.modeling_tvts import TVTS  # noqa: E402

CLIP = {'pre_norm': True, 'patch_bias': False, 'activation': 'quick_gelu', 'eps': 1e-5}
SWEEP = {
  'as published': {},
  'plain mean, narrow text, one slot': dict(
    projection='linear', common=7, text={'dim': 16, 'n_heads': 4}, transcripts=5, video={'frames': 2, 'depth': 1}
  ),
  'one space, images': dict(
    projection='none', transcripts=2, sort_depth=1, video={'frames': 1, 'tubelet': 1, 'image_size': 16}
  ),
  'wide text, other sort heads': dict(text={'dim': 32, 'n_layers': 1}, sort_heads=2, transcripts=1, sort_depth=3),
  'TVTSv2': dict(
    encoder='divided',
    text_encoder='clip',
    projection='clip',
    sort_heads=2,
    video={'tubelet': 1, 'frames': 3, 'sorts': 'bare', 'statistics': 'clip', **CLIP},
    text={'activation': 'quick_gelu'},
  ),
  'SVT with a BERT': dict(encoder='timesformer', text_encoder='bert', video={'tubelet': 1, 'frames': 3}),
  'CLIP': dict(
    encoder='frames', text_encoder='clip', projection='clip', sort_heads=2, video={'tubelet': 1, 'frames': 3, **CLIP}
  ),
  'VideoMAE': dict(video={'positions': 'sincos', 'pool': 'norm_of_mean'}),
  'MCQ, a mean of waves': dict(
    encoder='divided', video={'tubelet': 1, 'frames': 3, 'time': False, 'positions': 'learned', 'eps': 1e-5}
  ),
  'long tubelets, slim mlp': dict(
    video={'frames': 9, 'tubelet': 3, 'mlp_ratio': 2, 'image_size': 8, 'heads': 4, 'width': 32}
  ),
}


def exported(folder, config, params):
  convert.save_folder(folder, config, params)
  return TVTS.from_folder(folder)


def torch_outputs(model, clips, batch, visible=True):
  with torch.no_grad():
    return model(
      torch.tensor(clips),
      torch.tensor(batch['tokens']),
      torch.tensor(batch['token_mask']),
      torch.tensor(batch['positions'].astype(np.int64)) if visible else None,
    )


SHORT = ('as published', 'TVTSv2')


@pytest.mark.parametrize('name', [*SHORT, *(pytest.param(n, marks=pytest.mark.long) for n in SWEEP if n not in SHORT)])
def test_the_exported_module_equals_ours(tmp_path, name):
  config = weights.config_of(**SWEEP[name])
  params = weights.random_params(config)
  model = exported(tmp_path / 'm', config, params)
  every = config.video.slots * config.video.places
  half = every // 2 // config.video.slots * config.video.slots if config.video.SAME_PLACES else max(1, every // 2)
  for visible in (half, every):
    clips, batch = weights.random_batch(config, visible)
    if visible == every:
      batch = weights.random_batch(config)[1] | {'positions': np.tile(np.arange(every, dtype=np.int32), (2, 1))}
      patches = encoder.patchify(np.moveaxis(clips, 2, 4), config.video)
      batch['patches'] = np.asarray(patches)
    ours = weights.outputs(config, params, batch)
    theirs = torch_outputs(model, clips, batch, visible != every)
    # What the heads of objectives read beyond that is of training alone.
    assert set(ours) - set(theirs) == {'sort_tokens', 'transcript_embed'} and set(theirs) <= set(ours)
    for key in theirs:
      weights.close(ours[key], theirs[key].numpy(), 1e-5)
  with torch.no_grad():
    weights.close(model.encode_video(torch.tensor(clips)).numpy(), ours['video_embed'], 1e-5)
    texts = (torch.tensor(batch['tokens']), torch.tensor(batch['token_mask']))
    weights.close(model.encode_text(*texts).numpy(), ours['text_embed'], 1e-5)
    one = model.encode_text(texts[0][:, 0], texts[1][:, 0])
    assert torch.equal(one, model.encode_text(texts[0][:, :1], texts[1][:, :1]))


def put(module, state, **names_there):
  """Fills a module of torch's own with weights of ours, by its names."""
  module.load_state_dict({there: torch.tensor(state[here]) for there, here in names_there.items()})


def test_torch_s_own_layers_agree():
  """Neither our Flax nor our PyTorch code: nn.TransformerEncoderLayer and nn.Conv3d with the same weights."""
  config = weights.config_of()
  params = weights.random_params(config)
  clips, batch = weights.random_batch(config, visible=9)
  ours = weights.outputs(config, params, batch)
  state, D = tvts_family.state_dict(config, params), config.video.width

  def blocks(prefix, depth, x):
    for i in range(depth):
      layer = torch.nn.TransformerEncoderLayer(
        D, config.video.heads, 4 * D, dropout=0, activation='gelu', layer_norm_eps=1e-6, batch_first=True,
        norm_first=True,
      )  # fmt: skip
      here = f'{prefix}.blocks.{i}.'
      put(layer, state, **{
        'self_attn.in_proj_weight': f'{here}attn.qkv.weight', 'self_attn.in_proj_bias': f'{here}attn.qkv.bias',
        'self_attn.out_proj.weight': f'{here}attn.proj.weight', 'self_attn.out_proj.bias': f'{here}attn.proj.bias',
        'linear1.weight': f'{here}mlp.fc1.weight', 'linear1.bias': f'{here}mlp.fc1.bias',
        'linear2.weight': f'{here}mlp.fc2.weight', 'linear2.bias': f'{here}mlp.fc2.bias',
        'norm1.weight': f'{here}norm1.weight', 'norm1.bias': f'{here}norm1.bias',
        'norm2.weight': f'{here}norm2.weight', 'norm2.bias': f'{here}norm2.bias',
      })  # fmt: skip
      x = layer(x)
    norm = torch.nn.LayerNorm(D, eps=1e-6)
    put(norm, state, weight=f'{prefix}.norm.weight', bias=f'{prefix}.norm.bias')
    return norm(x)

  with torch.no_grad():
    cube = (config.video.tubelet, config.video.patch, config.video.patch)
    conv = torch.nn.Conv3d(3, D, cube, cube)
    put(conv, state, weight='video_model.patch_embed.proj.weight', bias='video_model.patch_embed.proj.bias')
    grid = conv(torch.tensor(clips).transpose(1, 2))  # [B, D, T, y, x]
    position, times = state['video_model.pos_embed'][0], state['video_model.temporal_embed'][0]
    tokens = [torch.tensor(np.tile(state['video_model.cls_token'][0] + position[:1], (2, 1, 1)))]
    for n in range(9):
      slot, place = np.divmod(batch['positions'][:, n], config.video.places)
      y, x = np.divmod(place, config.video.image_size // config.video.patch)
      token = torch.stack([grid[b, :, slot[b], y[b], x[b]] for b in range(2)])
      tokens.append((token + torch.tensor(position[1 + place] + times[slot]))[:, None])
    video_tokens = blocks('video_model', 2, torch.cat(tokens, 1))
    kinds = torch.tensor(state['pred_model.type_embed'][0])
    sorted_tokens = blocks(
      'pred_model', 2, torch.cat([video_tokens + kinds[0], torch.tensor(ours['text_cls']) + kinds[1]], 1)
    )
    head = torch.nn.functional.linear(
      sorted_tokens[:, -3:], torch.tensor(state['pred_model.head.weight']), torch.tensor(state['pred_model.head.bias'])
    )
  weights.close(ours['video_tokens'], video_tokens.numpy(), 1e-5)
  weights.close(ours['sort_logits'], head.numpy(), 1e-5)


def test_raw_pixels_fewer_frames_and_wrong_sizes(tmp_path):
  config = weights.config_of()
  params = weights.random_params(config)
  model = exported(tmp_path / 'm', config, params)
  raw = np.random.default_rng(0).integers(0, 256, (2, 4, 3, 12, 12), np.uint8)
  colours = lambda values: np.array(values, np.float32)[:, None, None]
  clips = (raw / np.float32(255) - colours(config.video.pixel_mean)) / colours(config.video.pixel_std)
  patches = np.asarray(encoder.patchify(np.moveaxis(clips, 2, 4), config.video))
  _, batch = weights.random_batch(config)
  for frames, tubelets in ((4, 18), (2, 9)):
    positions = np.tile(np.arange(tubelets, dtype=np.int32), (2, 1))
    ours = weights.outputs(config, params, batch | {'patches': patches[:, :tubelets], 'positions': positions})
    theirs = torch_outputs(model, raw[:, :frames], batch, False)
    weights.close(ours['video_tokens'], theirs['video_tokens'].numpy(), 1e-5)
  for clip, text in (((1, 4, 3, 8, 12), '12×12'), ((1, 6, 3, 12, 12), 'up to 4'), ((1, 3, 3, 12, 12), 'of 2, not 3')):
    with pytest.raises(ValueError, match=text):
      model.encode_video(torch.zeros(clip))
  with pytest.raises(ValueError, match='up to 10 word pieces, not 11'):
    model.encode_text(torch.zeros(1, 11, dtype=torch.int64))


def test_training_keeps_texts_out_of_the_sort_loss_and_drops_out(tmp_path):
  config = weights.config_of()
  model = exported(tmp_path / 'm', config, weights.random_params(config))
  clips, batch = weights.random_batch(config)
  inputs = torch.tensor(clips), torch.tensor(batch['tokens']), torch.tensor(batch['token_mask'])
  model(*inputs)['sort_logits'].square().sum().backward()
  assert all(p.grad is None for p in model.text_model.parameters())
  assert all(p.grad is not None for p in model.video_model.parameters())
  model.train()
  first, second = (model.encode_text(*inputs[1:]) for _ in range(2))
  assert not torch.equal(first, second)


def test_text_of_another_width_has_its_layer_in_the_sorter(tmp_path):
  config = weights.config_of(text={'dim': 16})
  model = exported(tmp_path / 'm', config, weights.random_params(config))
  state = load_file(tmp_path / 'm' / 'model.safetensors')
  assert set(state) == set(model.state_dict()) and state['pred_model.text_in.weight'].shape == (24, 16)


@pytest.mark.parametrize('dtype, name', [
  *(('float32', name) for name in SWEEP if name in ('as published', 'TVTSv2', 'SVT with a BERT', 'VideoMAE')),
  ('bfloat16', 'as published'),
])  # fmt: skip
def test_a_folder_comes_back_bit_for_bit(tmp_path, dtype, name):
  config = weights.config_of(param_dtype=dtype, **SWEEP[name])
  params = weights.random_params(config)
  metrics, run_settings = {'retrieval': {'r1': 0.25}, 'steps': 7}, {'seed': 3}
  convert.save_folder(tmp_path / 'm', config, params, metrics=metrics, run=run_settings)
  again, back, report = convert.load_folder(tmp_path / 'm')
  assert again == config and len(report.matched) == len(tvts_family.state_dict(config, params))
  weights.equal(back, params)
  assert next(TVTS.from_folder(tmp_path / 'm').parameters()).dtype == getattr(torch, dtype)
  card = (tmp_path / 'm' / 'README.md').read_text()
  assert '| retrieval/r1 | 0.25 |' in card and '"seed": 3' in card
  count = sum(leaf.size for leaf in names.flatten(params).values())
  assert f'| all | {count:,} |' in card
  assert json.loads((tmp_path / 'm' / 'run.json').read_text()) == {'metrics': metrics, 'run': run_settings}
  with appear(tmp_path / 'm.pth') as path:
    write_weights.write_pth(path, tvts_family.state_dict(config, params), {})
  written = torch.load(tmp_path / 'm.pth', weights_only=True)['state_dict']
  assert all(tensor.dtype == getattr(torch, dtype) for tensor in written.values())
  TVTS(config.to_dict()).to(getattr(torch, dtype)).load_state_dict(written, strict=True)


VIVITS = [name for name, values in SWEEP.items() if 'encoder' not in values and 'pool' not in values.get('video', {})]


@pytest.mark.parametrize('name', [*VIVITS[:2], *(pytest.param(name, marks=pytest.mark.long) for name in VIVITS[2:])])
def test_transformers_opens_the_video_encoder_as_a_vivit(tmp_path, name):
  transformers = pytest.importorskip('transformers')
  config = weights.config_of(**SWEEP[name])
  params = weights.random_params(config)
  convert.save_vivit(tmp_path / 'm', config, params)
  model, info = transformers.VivitModel.from_pretrained(
    tmp_path / 'm', add_pooling_layer=False, output_loading_info=True
  )
  assert not any(info.values()), info
  clips, batch = weights.random_batch(config)
  every = np.tile(np.arange(config.video.slots * config.video.places, dtype=np.int32), (2, 1))
  batch |= {'patches': np.asarray(encoder.patchify(np.moveaxis(clips, 2, 4), config.video)), 'positions': every}
  with torch.no_grad():
    theirs = model.eval()(torch.tensor(clips)).last_hidden_state
  weights.close(weights.outputs(config, params, batch)['video_tokens'], theirs.numpy(), 1e-5)


def test_an_encoder_that_is_no_vivit_is_refused(tmp_path, monkeypatch):
  from tvts_jax.convert import vivit

  config = weights.config_of()
  monkeypatch.setattr(vivit, 'TABLE', vivit.TABLE[1:])
  with pytest.raises(convert.ConvertError, match='is no VivitModel, which has no place for video/cls'):
    convert.save_vivit(tmp_path / 'm', config, weights.random_params(config))
  assert not list(tmp_path.iterdir())


def test_both_image_processors_prepare_frames_as_the_model_expects(tmp_path):
  transformers = pytest.importorskip('transformers')
  config = weights.config_of()
  convert.save_folder(tmp_path / 'm', config, weights.random_params(config))
  convert.save_vivit(tmp_path / 'v', config, weights.random_params(config))
  frames = np.random.default_rng(0).integers(0, 256, (4, 14, 14, 3), np.uint8)  # The short side needs no resizing.
  middle = frames[:, 1:13, 1:13]
  expected = (middle / 255 - np.array(encoder.STATISTICS['imagenet'][0])) / np.array(encoder.STATISTICS['imagenet'][1])
  for folder in 'mv':
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / folder)
    pixels = processor(list(frames), return_tensors='np')['pixel_values']
    weights.close(np.asarray(pixels)[0], np.moveaxis(expected, 3, 1), 1e-5)


def make_tokenizer(folder):
  from tokenizers import BertWordPieceTokenizer
  from transformers import DistilBertTokenizerFast

  trainer = BertWordPieceTokenizer()
  trainer.train_from_iterator(['a sentence of words'] * 9, vocab_size=30, show_progress=False)
  folder.mkdir()
  trainer.save_model(str(folder))
  DistilBertTokenizerFast.from_pretrained(folder).save_pretrained(folder)


# As where they are not installed: nothing finds them.
def python(code, folder, blocked):
  environment = {**os.environ, 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': ''}
  done = subprocess.run(
    [sys.executable, '-c', without(*blocked) + code], cwd=folder, env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_the_lines_in_the_card_run_where_jax_is_not_installed(tmp_path):
  pytest.importorskip('transformers')
  make_tokenizer(tmp_path / 'tokenizer')
  config = weights.config_of()
  params = weights.random_params(config)
  convert.save_folder(tmp_path / 'm', config, params, tokenizer=tmp_path / 'tokenizer')
  (code,) = re.findall('```python\n(.*?)```', (tmp_path / 'm' / 'README.md').read_text(), re.DOTALL)
  assert 'AutoTokenizer' in code
  start = 'import numpy as np\nframes = [np.full((20, 30, 3), 9 * i, np.uint8) for i in range(4)]\n'
  end = '\nprint(sorted(words), tuple(video.shape), *map(float, text.ravel()))'
  out = python(start + code + end, tmp_path / 'm', ['jax', 'jaxlib', 'flax', 'tvts_jax'])
  _, numbers = out.strip().split('(1, 16)')
  from transformers import AutoTokenizer

  words = AutoTokenizer.from_pretrained(tmp_path / 'tokenizer')(['a sentence'])
  _, batch = weights.random_batch(config)
  tokens = np.array(words['input_ids'], np.int32)
  texts = np.tile(tokens[:, None], (2, 3, 1))  # The mean of three equal texts is that of one.
  ours = weights.outputs(config, params, batch | {'tokens': texts, 'token_mask': np.ones(texts.shape, bool)})
  weights.close(ours['text_embed'][0], np.array(numbers.split(), np.float64), 1e-5)


def test_our_side_reads_and_writes_without_torch_and_tensorflow(tmp_path):
  golden = ROOT / 'tests' / 'golden' / 'tvts_v1_tiny_official_style.pth'
  code = f"""
sys.path.insert(0, {str(ROOT)!r})
from tvts_jax.convert.__main__ import main
assert main(['import', {str(golden)!r}, '--out', 'm']) == 0
assert main(['export', 'm', '--format', 'vivit', '--out', 'v']) == 0
assert main(['export', 'm', '--format', 'tvts', '--out', 'm.pth']) == 1
"""
  python(code, tmp_path, ['torch', 'tensorflow', 'transformers'])
  assert sorted(path.name for path in tmp_path.iterdir()) == ['m', 'v']
  weights.equal(convert.load_folder(tmp_path / 'm')[1], convert.import_model(golden)[1])


# What is refused, and what failure leaves behind.


def test_nothing_is_written_over_or_half(tmp_path, monkeypatch):
  config = weights.config_of()
  params = weights.random_params(config)
  (tmp_path / 'there').write_text('precious')
  for save in (convert.save_folder, convert.save_vivit):
    with pytest.raises(UserError, match='there exists already'):
      save(tmp_path / 'there', config, params)
  assert (tmp_path / 'there').read_text() == 'precious'

  def full(*_, **__):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(write_weights, 'write_json', full)
  with pytest.raises(OSError, match='No space'):
    convert.save_folder(tmp_path / 'm', config, params)
  assert [path.name for path in tmp_path.iterdir()] == ['there']


def test_a_file_that_does_not_give_back_its_weights_is_refused(tmp_path, monkeypatch):
  """As if the library wrote the memory of a transposed array as it lies."""
  config = weights.config_of()
  params = weights.random_params(config)
  save = write_weights.save_file
  wrong = lambda state, *rest, **more: save({name: array[::-1].copy() for name, array in state.items()}, *rest, **more)
  monkeypatch.setattr(write_weights, 'save_file', wrong)
  with pytest.raises(convert.ConvertError, match='does not give back text_model.embeddings.word_embeddings.weight'):
    convert.save_folder(tmp_path / 'm', config, params)
  assert not list(tmp_path.iterdir())


def test_parameters_that_are_not_those_of_the_config_are_named(tmp_path):
  config = weights.config_of()
  flat = names.flatten(weights.random_params(config))
  for change, text in (
    ({'video/cls': np.ones(5, np.float32)}, r'parameter video/cls is float32\[5\], but .* float32\[24\]'),
    ({'video/cls': np.ones(24, np.float64)}, r'parameter video/cls is float64\[24\]'),
    ({'video/head': np.ones(3)}, 'parameter video/head is unknown'),
  ):
    with pytest.raises(convert.ConvertError, match=text):
      convert.save_folder(tmp_path / 'm', config, names.unflatten(flat | change))
  del flat['sorter/head/bias']
  with pytest.raises(convert.ConvertError, match='parameter sorter/head/bias is missing'):
    convert.save_folder(tmp_path / 'm', config, names.unflatten(flat))


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path):
  config = weights.config_of(text={'vocab_size': 3})
  params = weights.random_params(config)
  with pytest.raises(convert.ConvertError, match='has no tokenizer'):
    convert.save_folder(tmp_path / 'm', config, params, tokenizer=tmp_path)
  (tmp_path / 'vocab.txt').write_text('a\nb\nc\nd\n')
  with pytest.raises(convert.ConvertError, match='knows 4 word pieces, but the text encoder only 3'):
    convert.save_folder(tmp_path / 'm', config, params, tokenizer=tmp_path)
  (tmp_path / 'tokenizer.json').write_text('{}')
  with pytest.raises(convert.ConvertError, match='tokenizer.json is no tokenizer'):
    convert.save_folder(tmp_path / 'm', config, params, tokenizer=tmp_path)
