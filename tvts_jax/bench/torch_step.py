"""A plain PyTorch training step of the same model, for bench.step to measure ours against.

The model is what the exchange folder holds (convert/modeling_tvts.py): blocks as timm and transformers write them, with
one product for q, k and v of a ViT block, scaled_dot_product_attention, and Conv3d over all tubelets, of which the
masked ones are dropped after that, as the authors' code does. It starts from the same weights and is given the same
batch, with its pixels normalised beforehand. bfloat16 is autocast; float32 may use TF32 on GPUs, as JAX does.

Shapes: B clips, N visible tubelets, P pixel values of one, K transcripts, L word pieces.
"""

import os
import shutil
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from tvts_jax.config import RunConfig
from tvts_jax.convert.families.tvts import state_dict
from tvts_jax.convert.modeling_tvts import TVTS
from tvts_jax.errors import UserError
from tvts_jax.machine import cores
from tvts_jax.models.encoders.encoder import normalise

KNOWN = {'contrastive': ('weight', 'temperature'), 'sort': ('weight',)}  # Objectives, and what is read of them.


def check(config: RunConfig, compiled: bool):
  """Refuses what this step does not do, before anything slow."""
  for name, settings in config.objectives.items():
    unknown = [f'.{key}' for key in settings if key not in KNOWN[name]] if name in KNOWN else ['']
    if unknown:
      raise UserError(
        f"the plain PyTorch step has no objectives.{name}{unknown[0]}; compare with the paper's objectives"
      )
  if config.micro_batches > 1 or config.ema or config.spike_sigmas or config.optim.groups:
    raise UserError(
      'the plain PyTorch step has no micro_batches, ema, spike_sigmas or optim.groups; leave them at their defaults'
    )
  if config.model.dtype not in ('float32', 'bfloat16'):
    raise UserError(f'the plain PyTorch step knows float32 and bfloat16, not model.dtype={config.model.dtype!r}')
  if compiled and not torch.cuda.is_available() and not shutil.which(compiler := os.environ.get('CXX', 'g++')):
    raise UserError(f'torch.compile on CPUs needs a C++ compiler, and there is no {compiler}; install one or set CXX')


class TorchStep:
  """Calling it takes a step; it returns once the loss is there."""

  def __init__(self, config: RunConfig, params, batch: Mapping[str, np.ndarray], *, fused: bool, compiled: bool):
    """params: ours, on the host; batch: what ours is given, uint8 patches included."""
    self.config, given = config, config.optim
    self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.set_num_threads(cores())
    if self.device == 'cuda':
      torch.set_float32_matmul_precision('high')
    model = TVTS(config.model.to_dict())
    state = {name: torch.from_numpy(np.array(value)) for name, value in state_dict(config.model, params).items()}
    model.load_state_dict(state, strict=True)
    self.model = model.to(self.device)
    self.batch = {name: torch.from_numpy(value).to(self.device) for name, value in batch_of(config, batch).items()}
    self.loss = torch.compile(self.plain_loss) if compiled else self.plain_loss
    self.optimizer = torch.optim.AdamW(
      model.parameters(), given.lr, (given.b1, given.b2), given.eps, given.weight_decay, fused=fused
    )
    self.about = f'{torch.get_num_threads()} threads, on {self.device}'

  def plain_loss(self, batch):
    half = self.config.model.dtype == 'bfloat16'
    with torch.autocast(self.device, torch.bfloat16, enabled=half):
      outputs = self.model(batch['video'], batch['tokens'], batch['token_mask'], batch['visible'])
    return loss(self.config.objectives, outputs, batch['order'])

  def loss_without_dropout(self) -> float:
    self.model.eval()
    with torch.no_grad():
      value = float(self.plain_loss(self.batch))
    self.model.train()
    return value

  def __call__(self) -> float:
    self.optimizer.zero_grad(set_to_none=True)
    value = self.loss(self.batch)
    value.backward()
    self.optimizer.step()
    if self.device == 'cuda':
      torch.cuda.synchronize()
    return float(value.detach())


def loss(objectives: Mapping, outputs: Mapping, order_BxK):
  total = 0.0
  for name, given in objectives.items():
    if name == 'sort':
      own = F.cross_entropy(outputs['sort_logits'].float().flatten(0, 1), order_BxK.flatten())
    else:
      video, text = (F.normalize(outputs[key].float(), dim=-1) for key in ('video_embed', 'text_embed'))
      logits = video @ text.T / given.get('temperature', 0.05)
      diagonal = torch.arange(len(logits), device=logits.device)
      own = F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)
    total = total + given.get('weight', 1.0) * own
  return total


def batch_of(config: RunConfig, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same clips whole, [B, F, 3, Y, X] and normalised, with grey in the place of what is masked."""
  video, positions_BxN = config.model.video, batch['positions']
  B, _, P = batch['patches'].shape
  whole = np.zeros((B, video.slots * video.places, P), np.float32)
  whole[np.arange(B)[:, None], positions_BxN] = np.asarray(normalise(batch['patches'], video))
  side = video.image_size // video.patch
  pattern = 'b (t h w) (u p q c) -> b (t u) c (h p) (w q)'
  sizes = dict(t=video.slots, h=side, w=side, u=video.tubelet, p=video.patch, q=video.patch)
  return {
    'video': np.ascontiguousarray(rearrange(whole, pattern, **sizes)),
    'visible': positions_BxN.astype(np.int64),
    'tokens': batch['tokens'].astype(np.int64),
    'token_mask': batch['token_mask'],
    'order': batch['order'].astype(np.int64),
  }
