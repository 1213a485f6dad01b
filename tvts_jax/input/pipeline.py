"""From shards to batches: the batch of step s is a pure function of (manifests, config, s); a process makes its rows.

A row is a pure function of its example and epoch: numpy reads the record and draws everything random (examples.py), a
decoder (decoders.py) turns the chosen frames into pixels, and the visible tubelets are kept (rows.py). So it does not
matter which thread of which process makes it (workers.py). tf.data runs the decoding. Pixels stay uint8.

  source = pipeline.open(InputConfig(folder=..., tokenizer=...))
  for batch in source.batches(start_step=1000): ...

A batch is a dict (B examples, K transcripts of L pieces, N visible tubelets of P = tubelet * patch * patch * 3 bytes):

  patches     uint8  [B, N, P]  in order (frame, row, column, channel)
  positions   int32  [B, N]     t * S + s, rising; s row by row over the S tubelets of time slice t
  tokens      int32  [B, K, L]
  token_mask  bool   [B, K, L]  True where a piece is real
  order       int32  [B, K]     the true place of each transcript
  example_id  uint64 [B]
  (more)                        what InputConfig.fields ask for: see fields.py
  valid       bool   [B]        only in mode 'eval': False where the last batch is filled up, or the record is damaged

An example that cannot be made keeps its place: in training another stands in for it (see order.py), in evaluation its
place is not valid. What is damaged is damaged whenever it is read, so the batch of a step is still the same function,
as long as the shards stay as they are.
"""

from tvts_jax.errors import UserError
from tvts_jax.input.order import shares
from tvts_jax.input.settings import InputConfig
from tvts_jax.input.skipped import Trouble
from tvts_jax.input.source import Alternating, Source


def open(config: InputConfig) -> Source | Alternating:
  """Reads manifests, indices and the tokenizer, and makes one example, so that most errors show here."""
  configs, weights = config.parts()
  if config.mode == 'eval' and len(configs) > 1:
    raise UserError("mode='eval' reads one folder; open a source for each")
  trouble = Trouble()
  if config.mix == 'alternate':
    return Alternating([Source([c], [c.batch], trouble, (k, len(configs))) for k, c in enumerate(configs)])
  return Source(configs, shares(weights, config.batch), trouble)
