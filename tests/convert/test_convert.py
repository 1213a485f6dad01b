"""Weights in: the published layouts, what a load reports, and what it refuses."""

import dataclasses
import json
import pathlib
import tempfile

import jax
import numpy as np
import pytest
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tests.support import bucket, weights
from tests.support.paths import GOLDEN
from tvts_jax import convert
from tvts_jax.convert import names, read_weights
from tvts_jax.convert.__main__ import main
from tvts_jax.convert.families import tvts as tvts_family
from tvts_jax.files import local
from tvts_jax.models.encoders import encoder
from tvts_jax.models.tvts import TVTSConfig
from tvts_jax.shards import storage

torch = pytest.importorskip('torch')

OFFICIAL, PLAIN = GOLDEN / 'tvts_v1_tiny_official_style.pth', GOLDEN / 'tvts_v1_tiny_state_dict.pth'
MAE = GOLDEN / 'mae_tiny.pth'
FLOAT32 = {'dtype': 'float32'}


def import_tvts(path, settings=None, **how):
  config, params, (report,) = convert.import_model(path, settings, **how)
  return config, params, report


def write(path, state, **metadata):
  save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, path, metadata or None)
  return path


def test_published_weights_give_the_numbers_of_the_authors_code():
  gold = np.load(GOLDEN / 'tvts_v1_tiny_f64.npz')
  config, params, report = import_tvts(OFFICIAL, FLOAT32)
  patches = encoder.patchify(rearrange(gold['in/video'].astype(np.float32), 'b t c h w -> b t h w c'), config.video)
  slots = np.arange(config.video.slots)[None, :, None]
  positions = rearrange(gold['in/keep_ind'] + slots * config.video.places, 'b t n -> b (t n)')
  by_clip = lambda x: rearrange(x, '(k b) ... -> b k ...', b=3)
  batch = {
    'patches': np.take_along_axis(np.asarray(patches), positions[..., None], 1),
    'positions': positions.astype(np.int32),
    'tokens': by_clip(gold['in/input_ids']).astype(np.int32),
    'token_mask': by_clip(gold['in/attention_mask']).astype(bool),
  }
  ours = weights.outputs(config, params, batch)
  weights.close(ours['video_tokens'], gold['mid/video/encoder_out'], 2e-5)
  weights.close(ours['text_cls'], by_clip(gold['mid/text/layer1'])[:, :, 0], 2e-5)
  weights.close(ours['video_embed'], gold['out/video'], 2e-5)
  weights.close(ours['text_embed'], gold['out/text'], 2e-5)
  weights.close(ours['sort_logits'], gold['out/order'], 2e-5)
  assert 'ConfigParser' in str(report) and 'matched     100' in str(report)


def test_the_official_wrapping_changes_nothing():
  official, plain = import_tvts(OFFICIAL), import_tvts(PLAIN)
  assert official[0] == plain[0]
  weights.equal(official[1], plain[1])


def test_names_and_shapes_of_the_base_model():
  golden = {}
  for line in (GOLDEN / 'tvts_v1_base_names.txt').read_text().splitlines():
    if '\t' in line:
      name, shape = line.split('\t')
      golden[name] = tuple(json.loads(shape))
  assert len(golden) == 284
  config = TVTSConfig()
  spec = names.spec(config)
  ours = {
    name: names.their_shape(row, spec, config)
    for row in tvts_family.table(config)
    for _, name in names.layers(row, spec)
  }
  assert ours == golden


def test_weights_come_out_as_they_went_in():
  published = torch.load(PLAIN, weights_only=False)['state_dict']
  config, params, _ = import_tvts(PLAIN)
  state = tvts_family.state_dict(config, params)
  assert set(state) == set(published)
  for name, array in state.items():
    assert array.flags.c_contiguous and np.array_equal(array, published[name].numpy()), name


MAE_CONFIG = weights.config_of(video=dict(width=64, heads=4, patch=16, image_size=64, frames=8))


def test_an_image_model_is_inflated_as_the_authors_do():
  after = torch.load(GOLDEN / 'tvts_v1_tiny_video_after_mae.pth')
  blank = jax.tree.map(np.zeros_like, weights.random_params(MAE_CONFIG))
  params, report = convert.load_part(blank, MAE_CONFIG, 'video', MAE)
  state = tvts_family.state_dict(MAE_CONFIG, params)
  for name, tensor in after.items():
    assert np.array_equal(state[f'video_model.{name}'], tensor.numpy()), name
  assert list(report.kept) == ['temporal_embed']
  kernel = params['video']['embed']['kernel']
  first, second = rearrange(kernel, '(u y x r) d -> u (y x r d)', u=2, y=16, x=16)
  assert np.array_equal(first, second) and first.any()


def test_a_full_autoencoder_lists_its_decoder_as_unused(tmp_path):
  state = torch.load(MAE)['model'] | {'mask_token': torch.zeros(1, 1, 8), 'decoder_blocks.0.norm1.bias': torch.ones(8)}
  torch.save({'model': state, 'epoch': 3}, tmp_path / 'full.pth')
  shapes = names.unflatten(names.spec(MAE_CONFIG))
  _, report = convert.load_part(shapes, MAE_CONFIG, 'video', tmp_path / 'full.pth')
  assert set(report.unused) == {'mask_token', 'decoder_blocks.0.norm1.bias'}
  assert 'mask_token, decoder_blocks.0.norm1.bias: the decoder of the masked autoencoder' in str(report)


@pytest.mark.parametrize('head, form', [
  (False, 'folder'), (True, 'bin'),
  *(pytest.param(*each, marks=pytest.mark.long) for each in ((True, 'folder'), (False, 'bin'), (False, 'legacy'))),
])  # fmt: skip
def test_distilbert_equals_that_of_transformers(tmp_path, head, form):
  transformers = pytest.importorskip('transformers')
  torch.manual_seed(0)
  sizes = dict(vocab_size=40, max_position_embeddings=10, dim=32, hidden_dim=48, n_layers=2, n_heads=4)
  bert_config = transformers.DistilBertConfig(**sizes)
  kind = transformers.DistilBertForMaskedLM if head else transformers.DistilBertModel
  bert = kind(bert_config).eval()
  for parameter in bert.parameters():
    parameter.data += 0.1 * torch.randn_like(parameter)
  path = tmp_path / 'bert'
  bert.save_pretrained(path)
  if form != 'folder':
    path = tmp_path / 'pytorch_model.bin'
    torch.save(bert.state_dict(), path, _use_new_zipfile_serialization=form == 'bin')
  config = weights.config_of(text=sizes)
  blank = jax.tree.map(np.zeros_like, weights.random_params(config))
  params, report = convert.load_part(blank, config, 'text', path)
  assert any(name.startswith('vocab_') for name in report.unused) == head
  weights.equal(params['video'], blank['video'])

  _, batch = weights.random_batch(config)
  mask = batch['token_mask']
  mask[0, 0, 0] = True  # transformers gives a text of padding alone another mask.
  encoder = jax.jit(lambda params, *inputs: config.text.module().apply({'params': params}, *inputs, method='states'))
  flat = lambda x: x.reshape(-1, x.shape[-1])
  ours = encoder(params['text'], flat(batch['tokens']), flat(mask))
  body = bert.distilbert if head else bert
  with torch.no_grad():
    theirs = body(torch.tensor(flat(batch['tokens'])), torch.tensor(flat(mask))).last_hidden_state
  real = flat(mask)[..., None]
  weights.close(ours * real, theirs.numpy() * real, 1e-5)


def test_a_part_out_of_a_whole_model_needs_no_values_to_replace():
  config, whole, _ = import_tvts(PLAIN)
  shapes = names.unflatten(names.spec(config))
  params, report = convert.load_part(shapes, config, 'video', OFFICIAL)
  weights.equal(params['video'], whole['video'])
  assert params['text'] == shapes['text'] and all(name.startswith('video') for name in report.matched)
  assert report.unused['text_model.embeddings.word_embeddings.weight'] == 'another part of the model'


@pytest.mark.parametrize('frames, image_size', [(16, 96), (4, 32), (8, 96), (4, 64)])
def test_positions_of_other_clips_are_resized(frames, image_size, caplog):
  config, whole, _ = import_tvts(PLAIN)
  clips = dataclasses.replace(config.video, frames=frames, image_size=image_size)
  other = dataclasses.replace(config, video=clips)
  with caplog.at_level('INFO'):
    params, report = convert.load_part(names.unflatten(names.spec(other)), other, 'video', PLAIN)
  assert f'8 frames of 64 pixels are resized to those of {frames} frames of {image_size} pixels' in caplog.text
  assert len(report.matched) == len(convert.load_part(whole, config, 'video', PLAIN)[1].matched)
  spec = names.unflatten(names.spec(other))['video']
  assert jax.tree.map(np.shape, params['video']) == jax.tree.map(lambda leaf: leaf.shape, spec)
  weights.equal(params, params | {'video': jax.device_get(clips.resized(whole['video'], config.video))})


def test_positions_of_images_are_resized_in_space_alone():
  config = weights.config_of(video=dict(width=64, heads=4, patch=16, image_size=32, frames=8))
  blank = jax.tree.map(np.zeros_like, weights.random_params(config))
  params, report = convert.load_part(blank, config, 'video', MAE)
  assert params['video']['space_position'].shape == (4, 64) and params['video']['space_position'].any()
  assert list(report.kept) == ['temporal_embed'] and not params['video']['time_position'].any()


geometries = st.fixed_dictionaries(
  {
    'video': st.fixed_dictionaries(
      dict(
        width=st.sampled_from([64, 128]),
        depth=st.integers(1, 3),
        patch=st.integers(1, 3),
        tubelet=st.integers(1, 3),
        mlp_ratio=st.integers(1, 4),
      )
    ),
    'text': st.fixed_dictionaries(
      dict(
        vocab_size=st.integers(1, 30),
        max_position_embeddings=st.integers(1, 9),
        dim=st.sampled_from([64, 128]),
        hidden_dim=st.integers(1, 20),
        n_layers=st.integers(1, 3),
      )
    ),
    'transcripts': st.integers(1, 5),
    'sort_depth': st.integers(1, 3),
    'common': st.integers(1, 9),
    'projection': st.sampled_from(['relu_linear', 'linear', 'none']),
  }
)


@settings(max_examples=8, deadline=None)
@given(geometries, st.integers(1, 3), st.integers(1, 3))
def test_any_geometry_is_read_off_the_shapes(tmp_path_factory, values, grid, slots):
  values['video'] |= dict(image_size=grid * values['video']['patch'], frames=slots * values['video']['tubelet'])
  values['video']['heads'] = {64: 4, 128: 2}[values['video']['width']]
  values['text']['n_heads'] = {64: 4, 128: 2}[values['text']['dim']]
  if values['projection'] == 'none':
    values['text'] |= dict(dim=values['video']['width'], n_heads=values['video']['heads'])
    del values['common']
  config = TVTSConfig.from_dict(values)
  params = weights.random_params(config)
  path = write(tmp_path_factory.mktemp('x') / 'm.safetensors', tvts_family.state_dict(config, params))
  again, back, _ = import_tvts(path)
  assert again == config
  weights.equal(back, params)


# What is refused.


def test_heads_that_nobody_knows_are_asked_for(tmp_path):
  config = weights.config_of()
  path = write(tmp_path / 'm.safetensors', tvts_family.state_dict(config, weights.random_params(config)))
  with pytest.raises(convert.ConvertError, match=r'how many heads a width of 24 has.*video\.heads=N'):
    import_tvts(path)
  with pytest.raises(convert.ConvertError, match=r'text\.n_heads=N'):
    import_tvts(path, {'video': {'heads': 3}})
  again, _, _ = import_tvts(path, {'video': {'heads': 3}, 'text': {'n_heads': 2}, **FLOAT32})
  assert again == config


def test_other_heads_are_refused_although_every_shape_fits(tmp_path):
  config = weights.config_of()
  params = weights.random_params(config)
  convert.save_folder(tmp_path / 'm', config, params)
  with pytest.raises(convert.LoadError, match=r'video\.heads is 3 in the file, but 4 in the model'):
    convert.load_part(params, weights.config_of(video={'heads': 4}), 'video', tmp_path / 'm')
  with pytest.raises(convert.LoadError, match=r'text\.n_heads is 2 in the file, but 4 in the model'):
    convert.load_part(params, weights.config_of(text={'n_heads': 4}), 'text', tmp_path / 'm')
  with pytest.raises(convert.LoadError, match=r'sorter_heads is 3 in the file, but 2 in the model'):
    convert.load_part(params, weights.config_of(sort_heads=2), 'sorter', tmp_path / 'm')


def tiny_state():
  return {name: tensor.numpy() for name, tensor in torch.load(PLAIN, weights_only=False)['state_dict'].items()}


def test_another_geometry_names_the_parameter_and_both_shapes():
  config, params, _ = import_tvts(PLAIN)
  for setting, value, text in (
    ('patch', 32, r'video_model.patch_embed.proj.weight .*shape \[64, 3, 2, 16, 16\] in the file, but .* 32\] in the'),
    ('depth', 1, r'video_model\.blocks\.1\..* has no place in the model'),
    ('depth', 3, r'video_model\.blocks\.2\.norm1\.weight \(video/blocks/norm1/scale\) is missing'),
    ('tubelet', 4, r'video_model.patch_embed.proj.weight .*shape \[64, 3, 2, 16, 16\] in the file, but \[64, 3, 4, 16'),
  ):
    values = config.to_dict()
    values['video'][setting] = value
    other = TVTSConfig.from_dict(values)
    with pytest.raises(convert.LoadError, match=text) as refused:
      convert.load_part(names.unflatten(names.spec(other)), other, 'video', PLAIN)
    assert len(refused.value.report.matched) > 1


@pytest.mark.parametrize('dtype', ['float16', 'float64', 'bfloat16'])
def test_narrow_types_become_wide_and_wide_ones_narrow_when_asked(tmp_path, dtype):
  state = {name: torch.tensor(array).to(getattr(torch, dtype)) for name, array in tiny_state().items()}
  torch.save({'state_dict': state}, tmp_path / 'm.pth')
  if dtype == 'float64':
    with pytest.raises(convert.LoadError, match=rf'word_embeddings.weight \(text/word\) has type {dtype} .*is rounded'):
      import_tvts(tmp_path / 'm.pth')
  _, params, report = import_tvts(tmp_path / 'm.pth', cast=dtype == 'float64')
  assert params['text']['word'].dtype == np.float32 and f'weights of {dtype} became those of the model' in str(report)
  assert np.array_equal(params['text']['word'], state['text_model.embeddings.word_embeddings.weight'].float().numpy())


def test_integers_are_never_weights(tmp_path):
  state = tiny_state()
  state['video_model.norm.bias'] = state['video_model.norm.bias'].astype(np.int64)
  with pytest.raises(convert.LoadError, match='video_model.norm.bias .*int64 in the file, which is no type of weights'):
    import_tvts(write(tmp_path / 'm.safetensors', state), cast=True)


def test_a_partial_match_is_refused_unless_asked_for_by_name(tmp_path):
  state = tiny_state()
  del state['video_model.temporal_embed'], state['video_model.blocks.1.norm1.bias']
  state['video_model.head.weight'] = np.ones(3, np.float32)
  path = write(tmp_path / 'm.safetensors', state)
  config, params, _ = import_tvts(PLAIN)
  load = lambda **how: convert.load_part(params, config, 'video', path, **how)
  missing = ('video/time_position', 'video/blocks/norm1/bias')
  with pytest.raises(convert.LoadError, match=r'.*is missing \(2 more do not fit either\)') as refused:
    load()
  assert 'missing     video_model.temporal_embed' in str(refused.value.report)
  assert 'unexpected  video_model.head.weight: has no place in the model' in str(refused.value.report)
  for some in (missing[:1], missing[1:]):
    with pytest.raises(convert.LoadError, match='is missing'):
      load(allow_missing=some, allow_unexpected=['*head*'])
  with pytest.raises(convert.LoadError, match='head.weight has no place'):
    load(allow_missing=missing)
  kept, report = load(allow_missing=missing, allow_unexpected=['*head*'])
  assert set(report.kept) == {'video_model.temporal_embed', 'video_model.blocks.1.norm1.bias'}
  weights.equal(kept, params)  # The values that were missing are those that were there.
  with pytest.raises(convert.ConvertError, match="'vidoe/\\*' fits no parameter of video"):
    load(allow_missing=['vidoe/*'])


def test_a_model_without_its_sorter_is_taken_only_when_asked_for(tmp_path):
  state = {name: array for name, array in tiny_state().items() if not name.startswith('pred_model.')}
  path = write(tmp_path / 'm.safetensors', state)
  with pytest.raises(convert.ConvertError, match='has no pred_model.head.weight'):
    import_tvts(path)
  sorter = {'transcripts': 3, 'sort_depth': 1}
  with pytest.raises(convert.LoadError, match='pred_model.type_embed .* is missing'):
    import_tvts(path, sorter)
  config, params, report = import_tvts(path, sorter, allow_missing=['sorter/*'])
  assert config.transcripts == 3 and params['sorter']['head']['kernel'].shape == (64, 3)
  assert len(report.matched) == 71 and set(report.kept) == {
    name for row in tvts_family.SORTER for _, name in names.layers(row, names.spec(config))
  }


def test_a_file_that_has_nothing_of_a_part_is_refused():
  config, params, _ = import_tvts(PLAIN)
  with pytest.raises(convert.ConvertError, match='an image or video encoder.*has no text part'):
    convert.load_part(params, config, 'text', MAE)
  with pytest.raises(convert.ConvertError, match="part='head' is unknown; known: text, video"):
    convert.load_part(params, config, 'head', MAE)


def run(capsys, *arguments):
  code = main([str(argument) for argument in arguments])
  return code, *capsys.readouterr()


def test_the_command_line_there_and_back(tmp_path, capsys):
  code, out, err = run(capsys, 'import', OFFICIAL, '--out', tmp_path / 'first')
  assert (code, err) == (0, '') and 'matched     100' in out and 'first' in out
  config, params, _ = convert.load_folder(tmp_path / 'first')
  weights.equal(params, import_tvts(PLAIN)[1])
  for form in ('tvts', 'safetensors', 'folder'):
    assert run(capsys, 'export', tmp_path / 'first', '--format', form, '--out', tmp_path / form)[0] == 0
    assert run(capsys, 'import', tmp_path / form, '--out', tmp_path / f'{form}-again')[0] == 0
    again, back, _ = convert.load_folder(tmp_path / f'{form}-again')
    assert again == config
    weights.equal(back, params)
  published = torch.load(tmp_path / 'tvts', weights_only=True)['state_dict']
  assert {name: tuple(tensor.shape) for name, tensor in published.items()} == {
    name: array.shape for name, array in tiny_state().items()
  }
  code, out, _ = run(capsys, 'inspect', OFFICIAL)
  assert code == 0 and 'a TVTS v1 model' in out and 'pred_model.head.weight  float32[4, 64]' in out


def test_a_new_model_around_published_encoders(tmp_path, capsys):
  transformers = pytest.importorskip('transformers')
  sizes = dict(vocab_size=40, max_position_embeddings=10, dim=64, hidden_dim=48, n_layers=1, n_heads=2)
  transformers.DistilBertModel(transformers.DistilBertConfig(**sizes)).save_pretrained(tmp_path / 'bert')
  (tmp_path / 'bert' / 'vocab.txt').write_text('[PAD]\n[UNK]\n')
  capsys.readouterr()
  parts = [MAE, tmp_path / 'bert', '--config', 'video.frames=8', '--config', 'common=16']
  code, out, err = run(capsys, 'import', *parts, '--out', tmp_path / 'm')
  assert (code, err) == (0, ''), err
  config, params, _ = convert.load_folder(tmp_path / 'm')
  assert (config.video.frames, config.common, config.text.n_heads, config.text.hidden_dim) == (8, 16, 2, 48)
  assert np.array_equal(params['video']['cls'], torch.load(MAE)['model']['cls_token'].numpy().ravel())
  assert (tmp_path / 'm' / 'vocab.txt').exists()
  assert 'drawn at random' in (tmp_path / 'm' / 'README.md').read_text()
  for arguments, text in (
    ([*parts, '--size', 'tiny'], 'pos_embed'),
    ([tmp_path / 'bert'], 'give its size: tiny, S/16'),
    ([tmp_path / 'bert', '--size', 'B/99'], "video.size='B/99' is unknown"),
    ([PLAIN, MAE], 'both have a video part; give one of them'),
    ([PLAIN, '--config', 'video=3'], 'knows video.NAME'),
    ([PLAIN, '--config', 'colour=3'], "no setting 'colour'"),
    ([PLAIN, '--config', 'video.heads="four"'], 'does not describe a model'),
    ([PLAIN, '--as', 'frozen'], 'is a TVTS v1 model, not a Frozen in Time'),
  ):
    code, _, err = run(capsys, 'import', *arguments, '--out', tmp_path / 'never')
    assert code == 1 and text in err and err.count('\n') == 1, err
    assert not (tmp_path / 'never').exists()


def test_weights_go_into_a_bucket_and_come_out(tmp_path, monkeypatch, capsys):
  with bucket.server():
    first = storage.path('gs://mine/first')
    assert run(capsys, 'import', PLAIN, '--out', first)[0] == 0
    assert (first / 'config.json').exists() and not pathlib.Path('gs:').exists()
    (first / 'vocab.txt').write(b'[PAD]\n[UNK]\n')
    (first / 'onnx/as_the_hub_has_it').write(b'')
    code, out, err = run(capsys, 'export', first, '--format', 'folder', '--out', tmp_path / 'again')
    assert (code, err) == (0, '') and (tmp_path / 'again/vocab.txt').exists()
    weights.equal(convert.load_folder(tmp_path / 'again')[1], import_tvts(PLAIN)[1])
    assert run(capsys, 'import', 'gs://mine/first/model.safetensors', '--out', tmp_path / 'file')[0] == 0
    (copied,) = {local('gs://mine/first'), local(storage.path('gs://mine/first'))}
    (tmp_path / 'tvts_jax-99999999-dead').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    assert [path.name for path in local('gs://mine/first', ('vocab.txt',)).iterdir()] == ['vocab.txt']
    assert not (tmp_path / 'tvts_jax-99999999-dead').exists() and (copied / 'model.safetensors').exists()
    code, _, err = run(capsys, 'inspect', 'gs://mine/none')
    assert code == 1 and err == 'error: gs://mine/none is not there, or may not be read from here\n'


def test_a_folder_of_another_kind_or_version_is_refused(tmp_path):
  config = weights.config_of()
  convert.save_folder(tmp_path / 'm', config, weights.random_params(config))
  path = tmp_path / 'm' / 'config.json'
  values = json.loads(path.read_text())
  for changes, text in (
    ({'format_version': 2}, 'has format_version=2, but this code reads 1'),
    ({'model_type': 'bert'}, 'is no folder of ours'),
    ({'colour': 1}, "no setting 'colour'"),
    ({'common': 'wide'}, 'does not describe a model'),
    ({'common': 17}, r'has shape \[16, 24\] in the file, but \[17, 24\] in the model'),
    ({'video': values['video'] | {'heads': 0}}, 'does not describe a model'),
    ({'video': values['video'] | {'depth': 10**6}}, 'a model of 1000000 layers'),
    ({'video': values['video'] | {'width': 3 * 10**9}}, 'would have [0-9]*0 values'),
  ):
    path.write_text(json.dumps(values | changes))
    with pytest.raises(convert.ConvertError, match=text):
      convert.load_folder(tmp_path / 'm')
  path.write_text('{')
  with pytest.raises(convert.ConvertError, match='config.json is damaged'):
    convert.load_folder(tmp_path / 'm')
  path.unlink()
  with pytest.raises(convert.ConvertError, match='has no config.json'):
    convert.load_folder(tmp_path / 'm')
  (tmp_path / 'm' / 'model.safetensors').unlink()
  with pytest.raises(convert.ConvertError, match='has no weights'):
    convert.load_folder(tmp_path / 'm')


def test_every_parameter_has_a_name_or_the_table_says_which_has_none(monkeypatch):
  monkeypatch.setattr(tvts_family, 'VIDEO', tvts_family.VIDEO[1:])
  with pytest.raises(convert.ConvertError, match=r'parameter video/cls .* has no place in the table of names'):
    tvts_family.table(weights.config_of())


def test_sources_are_told_apart_by_contents_and_not_by_name(tmp_path):
  path = write(tmp_path / 'weights.pth', tiny_state())
  assert read_weights.open_source(path).family == 'tvts'
  misnamed = tmp_path / 'model.safetensors'
  misnamed.write_bytes(MAE.read_bytes())
  assert read_weights.open_source(misnamed).family == 'mae'
