"""Texts to word pieces of a fixed length, and a fingerprint of the vocabulary they are made with.

A fast tokenizer spends well under 5 % of the pipeline's time (python -m tvts_jax.bench.input says how much), so
texts stay texts in the shards, and the vocabulary can change without building them again.
"""

import contextlib
import hashlib
import html
import json
import os
from collections.abc import Iterator

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.files import local
from tvts_jax.shards import storage

# Else transformers tells everybody that its models need PyTorch; of it only tokenizers are taken.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

# In which a folder may hold a tokenizer.
FILES = (
  *('tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json'),
  *('vocab.txt', 'vocab.json', 'merges.txt'),
)


class Tokenizer:
  """A fast tokenizer that cuts or pads every text to `length` pieces and keeps [CLS] and [SEP]."""

  def __init__(self, name: str, length: int):
    """`name`: a folder with a saved tokenizer, here or in a bucket, or a name on the Hugging Face hub."""
    fast = open_tokenizer(name)
    if length <= fast.num_special_tokens_to_add():
      raise UserError(f'max_tokens={length} leaves no room for words; use more')
    self.name, self.length = name, length
    self.vocab_size = len(fast)
    self._backend = fast.backend_tokenizer
    self._read = unescaped if getattr(self._backend.model, 'end_of_word_suffix', None) == '</w>' else str
    self.fingerprint = fingerprint(self._backend)
    self._backend.enable_truncation(length)
    self._backend.enable_padding(length=length, pad_id=fast.pad_token_id, pad_token=fast.pad_token)

  def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """int32 ids [K, L] and bool mask [K, L], True where a piece is real."""
    with usable(self.name):
      encoded = self._backend.encode_batch_fast(list(map(self._read, texts)))
    ids_KxL = np.array([e.ids for e in encoded], np.int32)
    mask_KxL = np.array([e.attention_mask for e in encoded], bool)
    return ids_KxL, mask_KxL

  def cut(self, texts: list[str]) -> int:
    """How many of the texts are longer than `length` pieces."""
    with usable(self.name):
      return sum(bool(e.overflowing) for e in self._backend.encode_batch(list(map(self._read, texts))))

  def decode(self, ids_KxL: np.ndarray, mask_KxL: np.ndarray) -> list[str]:
    """The texts again, as far as pieces can tell."""
    kept = [row[mask].tolist() for row, mask in zip(ids_KxL, mask_KxL)]
    return self._backend.decode_batch(kept, skip_special_tokens=True)


def unescaped(text: str) -> str:
  """CLIP's own tokenizer reads the entities of HTML, escaped once or twice; that of transformers does not."""
  return html.unescape(html.unescape(text))


@contextlib.contextmanager
def usable(name: str) -> Iterator[None]:
  """UserError for what libraries raise over a tokenizer that no library has saved, panics of Rust included."""
  try:
    yield
  except (OSError, ValueError):
    raise
  except BaseException as e:
    if not isinstance(e, Exception) and type(e).__name__ != 'PanicException':
      raise
    why = f'{type(e).__name__}: {str(e).partition(chr(10))[0]:.200}'
    raise UserError(f'tokenizer {name!r} cannot be used ({why}); save it again or name another') from e


def check_fingerprint(found: str, expected: str, what: str) -> None:
  """Refuses token ids of another vocabulary than the one `what` (say, a checkpoint) was made with."""
  if found != expected:
    raise UserError(
      f'{what} was made with the vocabulary {expected[:12]}, and the tokenizer at hand has {found[:12]}: '
      'open the tokenizer it was made with'
    )


def open_tokenizer(name: str):
  if not name:
    raise UserError('no tokenizer is set; name a folder (python -m data.vocab makes one) or a hub name')
  # The pipeline has threads of its own, each with a few short texts: more threads would only get in their way.
  os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
  try:
    place = str(local(name, (*FILES, 'config.json')))  # The last says of which model it is, where nothing else does.
    with usable(name):
      fast = from_file(place)
      if fast is None:
        from transformers import AutoTokenizer  # Which imports PyTorch, where that is installed: more seconds.

        # Code that lies beside a tokenizer is not run, and nobody is asked whether to.
        fast = AutoTokenizer.from_pretrained(place, use_fast=True, trust_remote_code=False)
  except storage.StorageError:
    raise
  except (OSError, ValueError) as e:
    raise UserError(
      f'tokenizer {name!r} is neither a folder with a saved tokenizer nor a name that the hub gives us now '
      f'({str(e).strip().splitlines()[0]}); give a local folder when offline'
    ) from e
  if not fast.is_fast:
    raise UserError(f'tokenizer {name!r} has no fast version, and the slow one would starve the devices')
  # A tokenizer made from a file that was not read has its special tokens and nothing else.
  if len(fast) <= len(set(fast.all_special_ids)):
    raise UserError(f'tokenizer {name!r} knows {len(fast)} pieces, all of them special: its vocabulary is lost')
  if fast.pad_token_id is None:
    raise UserError(f'tokenizer {name!r} has no padding token; add one and save it again')
  return fast


def from_file(name: str):
  """A tokenizer that lies in a folder with all that is asked of it; None if it does not."""
  folder = storage.path(name)
  if not (folder / 'tokenizer.json').exists() or not (folder / 'tokenizer_config.json').exists():
    return None
  if not json.loads((folder / 'tokenizer_config.json').read_text()).get('pad_token'):
    return None
  from transformers import PreTrainedTokenizerFast  # A second of imports: only where it is needed.

  return PreTrainedTokenizerFast.from_pretrained(name)


def fingerprint(backend) -> str:
  """sha256 of all that decides which ids a text becomes, before any truncation or padding is set."""
  state = json.loads(backend.to_str())
  parts = {k: v for k, v in state.items() if k not in ('version', 'truncation', 'padding', 'decoder')}
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
