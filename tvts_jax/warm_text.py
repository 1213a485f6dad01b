"""Warms up a text encoder on the transcripts alone, where no pretrained DistilBERT fits:

  python -m tvts_jax.warm_text --config=configs/demo.py --out=runs/demo/text

Each transcript's [CLS] learns to say which word pieces the transcript holds. The sort loss stops at the text encoder,
so a word whose meaning [CLS] has dropped never comes back; this makes it keep them all to begin with. --out receives
a folder of it as Hugging Face has them, with the tokenizer beside it, which `init.text` takes.
"""

import jax
import numpy as np
import optax
from absl import flags, logging
from ml_collections import config_flags

from tvts_jax import command
from tvts_jax import config as config_lib
from tvts_jax.convert import names, write_weights
from tvts_jax.convert.families import FAMILIES
from tvts_jax.errors import UserError
from tvts_jax.files import local
from tvts_jax.input.examples import Examples
from tvts_jax.input.order import Order
from tvts_jax.input.tokens import Tokenizer
from tvts_jax.models import tvts
from tvts_jax.shards import storage

CONFIG = config_flags.DEFINE_config_file('config', None, 'the run whose transcripts and text encoder are meant')
TOKENIZER = flags.DEFINE_string('tokenizer', None, 'a tokenizer folder; needed (python -m data.vocab makes one)')
OUT = flags.DEFINE_string('out', None, 'the folder to write; needed')
STEPS = flags.DEFINE_integer('steps', 400, 'steps of training, each with one batch of the config')
flags.mark_flags_as_required(['config', 'tokenizer', 'out'])


def transcripts(config, tokenizer: Tokenizer, steps: int):
  """Token ids and masks of the transcripts of each step, [R, L]."""
  examples = Examples(config.input, tokenizer)
  order = Order(examples.index.video, config.input.batch, config.input.seed)
  for step in range(steps):
    drawn = [examples.load(int(row), int(epoch)) for row, epoch in zip(order.ids(step), order.epochs(step))]
    yield tuple(np.concatenate([getattr(example, name) for example in drawn]) for name in ('tokens', 'token_mask'))


def warm(config, tokenizer: Tokenizer, steps: int):
  """Parameters of the text encoder after `steps` steps, and the share of present word pieces it names at the end."""
  text = config.model.text
  encoder = text.module(scan=config.model.scan)
  spec = tvts.batch_spec(config.model, 1, config.model.video.slots, config.input.max_tokens)
  key = jax.random.key(config.seed)
  params = jax.jit(lambda key: tvts.build(config.model).init(key, spec)['text'])(key)
  head = text.dim**-0.5 * jax.random.normal(key, (text.dim, text.vocab_size))
  rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 8, steps)
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.98, weight_decay=0.05))
  trained = {'text': params, 'head': head}

  def loss_fn(trained, tokens_RxL, mask_RxL):
    cls_RxD = encoder.apply({'params': trained['text']}, tokens_RxL, mask_RxL)
    held_RxV = (jax.nn.one_hot(tokens_RxL, text.vocab_size) * mask_RxL[..., None]).max(1)
    logits_RxV = cls_RxD @ trained['head']
    named = ((logits_RxV > 0) * held_RxV).sum() / held_RxV.sum()
    return optax.sigmoid_binary_cross_entropy(logits_RxV, held_RxV).sum(-1).mean(), named

  @jax.jit
  def step_fn(trained, state, tokens, mask):
    (_, named), gradient = jax.value_and_grad(loss_fn, has_aux=True)(trained, tokens, mask)
    updates, state = tx.update(gradient, state, trained)
    return optax.apply_updates(trained, updates), state, named

  state, named = tx.init(trained), None
  for step, (tokens, mask) in enumerate(transcripts(config, tokenizer, steps)):
    trained, state, named = step_fn(trained, state, tokens, mask)
    if (step + 1) % 100 == 0:
      logging.info('step %d/%d: [CLS] names %.0f %% of the word pieces', step + 1, steps, 100 * float(named))
  return jax.device_get(trained['text']), float(named)


def write(out: storage.Path, config, params, tokenizer_folder: str):
  """A DistilBERT folder, complete or not there at all."""
  family = FAMILIES[config.model.text_encoder]
  flat = {f'text/{path}': leaf for path, leaf in names.flatten(params).items()}
  weights = names.apply_table(family.rows(config.model), config.model, flat)
  files = [f for f in local(tokenizer_folder).iterdir() if f.name not in ('config.json', 'model.safetensors')]
  write_weights.write_folder(out, weights, {'config.json': config.model.text.to_hf()}, files=files)


def main(argv):
  del argv
  logging.set_verbosity(logging.INFO)
  return command.ending(make)


def make() -> None:
  out = storage.path(OUT.value)
  if out.exists():
    raise UserError(f'{out} exists; give another --out, or remove it')
  config = config_lib.resolve(CONFIG.value)
  if config.model.text_encoder not in ('distilbert', 'bert'):
    raise UserError(f'a text encoder {config.model.text_encoder!r} has no folder of its own; warm a distilbert or bert')
  tokenizer = Tokenizer(TOKENIZER.value, config.input.max_tokens)
  params, named = warm(config, tokenizer, STEPS.value)
  write(out, config, params, TOKENIZER.value)
  print(f'{out}: [CLS] names {named:.0%} of the word pieces of a transcript')


if __name__ == '__main__':
  command.run(main)
