"""Transformer blocks shared by the video encoder, the text encoder and the sorter.

Shapes: B batch, N tokens, Q query tokens, D width, H heads, C width of one head, F width of the MLP.
Blocks keep their parameters stacked on a leading layer axis, whether they run as a scan or unrolled, so that
neither option changes a parameter path, a checkpoint or a number.
"""

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tvts_jax.models import attention
from tvts_jax.sharding import BATCH

# What the backward pass may keep of a block instead of computing it again; each keeps less than the one before.
REMAT_POLICIES = {
  'none': None,
  'matmuls': jax.checkpoint_policies.save_only_these_names('qkv', 'attention', 'mlp', 'norm'),
  'attention': jax.checkpoint_policies.save_only_these_names('attention', 'norm'),
  'full': jax.checkpoint_policies.nothing_saveable,
}

# An `Initial` maps a layer's fan-in to the initialisers of its kernel and bias.
Initial = Callable[[int], tuple[nn.initializers.Initializer, nn.initializers.Initializer]]


def normal_init(fan_in: int):
  """Kernels from N(0, 0.02), biases zero: ViT and BERT."""
  del fan_in
  return nn.initializers.normal(0.02), nn.initializers.zeros


def uniform_init(fan_in: int):
  """Kernels and biases from U(±1/√fan_in): what PyTorch gives a layer that nobody initialises."""
  bound = fan_in**-0.5
  draw = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)
  return draw, draw


def zeros_init(fan_in: int):
  """Nothing comes out, until the first step."""
  del fan_in
  return nn.initializers.zeros, nn.initializers.zeros


def fan_in_init(gain: float) -> Initial:
  """Kernels from N(0, gain/√fan_in), biases zero: outputs are `gain` times as large as inputs."""
  return lambda fan_in: (nn.initializers.normal(gain * fan_in**-0.5), nn.initializers.zeros)


@dataclasses.dataclass(frozen=True)
class Start:
  """How parameters start that no pretrained weights replace."""

  blocks: Initial = normal_init
  sorter: Initial = uniform_init
  cubes: Initial = uniform_init  # The projection of tubelets.
  word: float = 0.02  # Standard deviations of the embeddings of word pieces and of positions.
  space: float = 0.02
  time: float = 0.0


# Starts by name. What is right beside pretrained encoders of width 768 leaves narrow ones without any at a plateau: in
# 'narrow' every layer keeps the size of its input, and positions and pixels are there from the first step.
STARTS = {
  'published': Start(),
  'narrow': Start(fan_in_init(1), fan_in_init(1), fan_in_init(3.5), word=0.1, space=1.0, time=1.0),
}


def wide(dtype) -> jnp.dtype:
  """The type for softmax, norms and losses: float32, or wider if the computation already is."""
  return jnp.promote_types(dtype, jnp.float32)


def affine(x, kernel, bias, dtype):
  """x @ kernel + bias, computed in one type."""
  y = x.astype(dtype) @ kernel.astype(dtype)
  return y + jnp.expand_dims(bias.astype(dtype), tuple(range(y.ndim - 1)))


class Module(nn.Module):
  """Takes parameters as they are. Flax traces each initialiser at every call, to compare shapes; but those of a run are
  compared when they are loaded, and a run that starts would spend a sixth of its time on it."""

  MAY_PAD = True  # A block of it: whether tokens of padding behind the others are only tokens of padding.

  def param(self, name, init_fn, *init_args, **init_kwargs):
    if self.has_variable('params', name):
      return self.get_variable('params', name)
    return super().param(name, init_fn, *init_args, **init_kwargs)


class Linear(Module):
  features: int
  initial: Initial
  dtype: jnp.dtype
  param_dtype: jnp.dtype
  biased: bool = True

  @nn.compact
  def __call__(self, x):
    kernel_init, bias_init = self.initial(x.shape[-1])
    kernel = self.param('kernel', kernel_init, (x.shape[-1], self.features), self.param_dtype)
    bias = jnp.zeros(self.features, self.param_dtype)
    if self.biased:
      bias = self.param('bias', bias_init, (self.features,), self.param_dtype)
    return affine(x, kernel, bias, self.dtype)


class Heads(Module):
  """Projects tokens to heads, [B,N,D] → [B,N,H,C]."""

  heads: int
  initial: Initial
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BxNxD):
    D = x_BxNxD.shape[-1]
    kernel_init, bias_init = self.initial(D)
    kernel_DxHxC = self.param('kernel', kernel_init, (D, self.heads, D // self.heads), self.param_dtype)
    bias_HxC = self.param('bias', bias_init, (self.heads, D // self.heads), self.param_dtype)
    x_BxNxD = affine(x_BxNxD, kernel_DxHxC.reshape(D, D), bias_HxC.reshape(D), self.dtype)
    return x_BxNxD.reshape(*x_BxNxD.shape[:2], *bias_HxC.shape)


class Merge(Module):
  """Projects heads back to tokens, [B,N,H,C] → [B,N,D]."""

  initial: Initial
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BxNxHxC):
    B, N, H, C = x_BxNxHxC.shape
    kernel_init, bias_init = self.initial(H * C)
    kernel_HxCxD = self.param('kernel', kernel_init, (H, C, H * C), self.param_dtype)
    bias_D = self.param('bias', bias_init, (H * C,), self.param_dtype)
    return affine(x_BxNxHxC.reshape(B, N, H * C), kernel_HxCxD.reshape(H * C, H * C), bias_D, self.dtype)


class Attention(Module):
  """Multi-head attention of the first `read` tokens (all by default) to every token, or to those up to itself."""

  heads: int
  initial: Initial
  dtype: jnp.dtype
  param_dtype: jnp.dtype
  dropout: float = 0.0
  causal: bool = False
  out_initial: Initial | None = None  # Of the output projection; by default `initial`.

  @nn.compact
  def __call__(self, x_BxNxD, mask_BxN=None, *, read: int | None = None, train: bool = False):
    drop = nn.Dropout(self.dropout, deterministic=False) if train and self.dropout else None
    q_BxQxHxC, k_BxNxHxC, v_BxNxHxC = self.project(x_BxNxD, read)
    return self.merge(attention.attend(q_BxQxHxC, k_BxNxHxC, v_BxNxHxC, mask_BxN, drop, self.causal))

  def project(self, x_BxNxD, read: int | None = None):
    """Queries of the first `read` tokens, and keys and values of all, [B, N, H, C] each."""
    heads = lambda name: Heads(self.heads, self.initial, self.dtype, self.param_dtype, name=name)
    queries = heads('q')(x_BxNxD[:, :read])
    return tuple(checkpoint_name(x, 'qkv') for x in (queries, heads('k')(x_BxNxD), heads('v')(x_BxNxD)))

  def merge(self, x_BxQxHxC):
    return Merge(self.out_initial or self.initial, self.dtype, self.param_dtype, name='out')(x_BxQxHxC)


def from_input(activation: Callable) -> Callable:
  """The same function, computed in a wide type, of which the backward pass keeps the input alone. All that lies between
  is as large as the widest layer, and cheap to compute again."""
  forward = lambda x: activation(x.astype(wide(x.dtype))).astype(x.dtype)

  def backward(x, toward):
    _, pull = jax.vjp(activation, x.astype(wide(x.dtype)))
    return (pull(toward.astype(wide(x.dtype)))[0].astype(x.dtype),)

  kept = jax.custom_vjp(forward)
  kept.defvjp(lambda x: (forward(x), x), backward)
  return kept


ACTIVATIONS = {
  # jax.nn.gelu takes erfc, which costs twice as much as erf and is more exact only where the result is nearly zero.
  'gelu': from_input(lambda x: 0.5 * x * (1 + jax.lax.erf(math.sqrt(0.5) * x))),
  'quick_gelu': from_input(lambda x: x * jax.nn.sigmoid(1.702 * x)),  # OpenAI's CLIP.
}
gelu = ACTIVATIONS['gelu']


class Mlp(Module):
  hidden: int
  initial: Initial
  dtype: jnp.dtype
  param_dtype: jnp.dtype
  activation: str = 'gelu'

  @nn.compact
  def __call__(self, x_BxNxD):
    x_BxNxF = Linear(self.hidden, self.initial, self.dtype, self.param_dtype, name='up')(x_BxNxD)
    x_BxNxF = ACTIVATIONS[self.activation](checkpoint_name(x_BxNxF, 'mlp'))
    return Linear(x_BxNxD.shape[-1], self.initial, self.dtype, self.param_dtype, name='down')(x_BxNxF)


def statistics(x_BxD, eps: float):
  """Mean and one over the deviation of each row, in a wide type. A block that is computed again has them."""
  x_BxD = x_BxD.astype(wide(x_BxD.dtype))
  mean_Bx1 = x_BxD.mean(-1, keepdims=True)
  variance_Bx1 = jnp.square(x_BxD - mean_Bx1).mean(-1, keepdims=True)
  return checkpoint_name(mean_Bx1, 'norm'), checkpoint_name(jax.lax.rsqrt(variance_Bx1 + eps), 'norm')


def norm_forward(x_BxD, scale_D, bias_D, eps: float, dtype):
  mean_Bx1, inverse_Bx1 = statistics(x_BxD, eps)
  along = lambda x_D: jnp.expand_dims(x_D.astype(mean_Bx1.dtype), range(x_BxD.ndim - 1))
  y_BxD = (x_BxD.astype(mean_Bx1.dtype) - mean_Bx1) * (inverse_Bx1 * along(scale_D)) + along(bias_D)
  return y_BxD.astype(dtype), (x_BxD, mean_Bx1, inverse_Bx1, scale_D)


def norm_backward(eps: float, dtype, kept, toward_BxD):
  """Out of the input and the statistics of its rows, which are small: nothing else of the size of the input is kept."""
  del eps, dtype
  x_BxD, mean_Bx1, inverse_Bx1, scale_D = kept
  toward_BxD = toward_BxD.astype(mean_Bx1.dtype)
  unit_BxD = (x_BxD.astype(mean_Bx1.dtype) - mean_Bx1) * inverse_Bx1
  rows = tuple(range(x_BxD.ndim - 1))
  dscale_D, dbias_D = ((toward_BxD * y).sum(rows).astype(scale_D.dtype) for y in (unit_BxD, 1))
  scaled_BxD = toward_BxD * jnp.expand_dims(scale_D.astype(mean_Bx1.dtype), rows)
  along_Bx1 = (scaled_BxD * unit_BxD).mean(-1, keepdims=True)
  dx_BxD = inverse_Bx1 * (scaled_BxD - scaled_BxD.mean(-1, keepdims=True) - unit_BxD * along_Bx1)
  return dx_BxD.astype(x_BxD.dtype), dscale_D, dbias_D


normed = jax.custom_vjp(lambda *given: norm_forward(*given)[0], nondiff_argnums=(3, 4))
normed.defvjp(norm_forward, norm_backward)


class LayerNorm(Module):
  eps: float
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BxD):
    scale_D = self.param('scale', nn.initializers.ones, (x_BxD.shape[-1],), self.param_dtype)
    bias_D = self.param('bias', nn.initializers.zeros, (x_BxD.shape[-1],), self.param_dtype)
    return normed(x_BxD, scale_D, bias_D, self.eps, self.dtype)


class PreNormBlock(Module):
  """The block of ViT: x + attention(norm(x)), then x + mlp(norm(x))."""

  heads: int
  hidden: int
  initial: Initial
  dtype: jnp.dtype
  param_dtype: jnp.dtype
  eps: float = 1e-6
  activation: str = 'gelu'
  causal: bool = False

  @nn.compact
  def __call__(self, x_BxNxD, mask_BxN=None, *, read: int | None = None, train: bool = False, drop=None):
    """`drop`: the share of clips that go past attention, and as many past the MLP; only in training."""
    types = (self.dtype, self.param_dtype)
    attention = Attention(self.heads, self.initial, *types, causal=self.causal, name='attn')
    y_BxNxD = LayerNorm(self.eps, *types, name='norm1')(x_BxNxD)
    y_BxQxD = attention(y_BxNxD, mask_BxN, read=read, train=train)
    return self.think(x_BxNxD[:, :read] + self.drop_path(y_BxQxD, drop), drop)

  def think(self, x_BxQxD, drop):
    """What stands behind the attention."""
    types = (self.dtype, self.param_dtype)
    y_BxQxD = LayerNorm(self.eps, *types, name='norm2')(x_BxQxD)
    y_BxQxD = Mlp(self.hidden, self.initial, *types, activation=self.activation, name='mlp')(y_BxQxD)
    return x_BxQxD + self.drop_path(y_BxQxD, drop)

  def drop_path(self, y_BxQxD, drop):
    """Nothing for a share of the clips, and so much more for the others that the mean stays as it is."""
    if drop is None:
      return y_BxQxD
    kept_Bx1x1 = jax.random.bernoulli(self.make_rng('dropout'), 1 - drop, (y_BxQxD.shape[0], 1, 1))
    return jnp.where(kept_Bx1x1, y_BxQxD / (1 - drop).astype(y_BxQxD.dtype), 0)


class PostNormBlock(Module):
  """The block of BERT: norm(x + dropout(attention(x))), then norm(x + dropout(mlp(x))). In DistilBERT only the second
  drops out."""

  heads: int
  hidden: int
  initial: Initial
  dtype: jnp.dtype
  param_dtype: jnp.dtype
  eps: float = 1e-12
  dropout: float = 0.0
  attention_dropout: float = 0.0
  first_dropout: float = 0.0

  @nn.compact
  def __call__(self, x_BxNxD, mask_BxN=None, *, read: int | None = None, train: bool = False):
    types = (self.dtype, self.param_dtype)
    attention = Attention(self.heads, self.initial, *types, dropout=self.attention_dropout, name='attn')
    y_BxQxD = attention(x_BxNxD, mask_BxN, read=read, train=train)
    y_BxQxD = nn.Dropout(self.first_dropout, name='first_dropout')(y_BxQxD, deterministic=not train)
    x_BxQxD = LayerNorm(self.eps, *types, name='norm1')(x_BxNxD[:, :read] + y_BxQxD)
    y_BxQxD = Mlp(self.hidden, self.initial, *types, name='mlp')(x_BxQxD)
    y_BxQxD = nn.Dropout(self.dropout)(y_BxQxD, deterministic=not train)
    return LayerNorm(self.eps, *types, name='norm2')(x_BxQxD + y_BxQxD)


def spread(x_BxNxD):
  """Keeps tokens split along the batch, where the caller has set a mesh.

  Left to itself the compiler may follow the weights instead, and under fsdp move activations, which are far larger.
  """
  mesh = jax.sharding.get_abstract_mesh()
  ways = math.prod(mesh.shape.get(axis, 1) for axis in BATCH[0])
  if ways == 1 or x_BxNxD.shape[0] % ways:
    return x_BxNxD
  return jax.lax.with_sharding_constraint(x_BxNxD, BATCH)


def init_blocks(rng, block: nn.Module, depth: int, width: int):
  """Parameters of `depth` blocks, each leaf stacked on a leading layer axis."""
  init = lambda key: block.init(key, jnp.zeros((1, 1, width), block.dtype))['params']
  return jax.vmap(init)(jax.random.split(rng, depth))


def apply_blocks(
  block: nn.Module,
  params,
  x_BxNxD,
  mask_BxN=None,
  *,
  read: int | None = None,
  train: bool = False,
  rng=None,
  drop_L=None,
  scan: bool = True,
  remat: str = 'none',
  initializing: bool = False,
):
  """Runs stacked blocks. Of the last one only the first `read` tokens are computed, when a caller reads no more.

  `rng` feeds dropout and may be None where there is none; `drop_L` is what each block is given as `drop`, if any.
  `initializing`: only parameters are asked for, which the blocks have, and to trace them takes long.
  """
  if initializing:
    return x_BxNxD[:, :read]

  def layer(read, x_BxNxD, of_layer):
    params, key, drop = of_layer
    rngs, more = None if key is None else {'dropout': key}, {} if drop is None else {'drop': drop}
    return spread(block.apply({'params': params}, x_BxNxD, mask_BxN, read=read, train=train, rngs=rngs, **more))

  if remat != 'none':
    # Inside a scan the loop itself keeps XLA from merging the recomputation with the forward pass. For the few blocks
    # behind it barriers are no gain: of ViT-H they cost a TPU 2 % of its cycles and 0.9 GiB, as its compiler has it.
    layer = jax.checkpoint(layer, static_argnums=0, policy=REMAT_POLICIES[remat], prevent_cse=not scan)

  tokens, D = x_BxNxD.shape[1:]
  if tokens % 2 and block.MAY_PAD and attention.wants_even(block.dtype, D // block.heads):
    x_BxNxD, mask_BxN = attention.evened(x_BxNxD, mask_BxN)
  x_BxNxD = spread(x_BxNxD)
  depth = jax.tree.leaves(params)[0].shape[0]
  keys = None if rng is None else jax.random.split(rng, depth)
  full_depth = depth if read is None else depth - 1  # Blocks whose every token is needed.
  take = lambda i: jax.tree.map(lambda leaf: leaf[i], (params, keys, drop_L))
  if scan and full_depth > 1:
    step = lambda x_BxNxD, layer_inputs: (layer(None, x_BxNxD, layer_inputs), None)
    x_BxNxD, _ = jax.lax.scan(step, x_BxNxD, take(slice(full_depth)))
  else:
    for i in range(full_depth):
      x_BxNxD = layer(None, x_BxNxD, take(i))
  return x_BxNxD[:, :tokens] if read is None else layer(read, x_BxNxD, take(depth - 1))


def flops_of_blocks(tokens: int, width: int, hidden: int, depth: int, read: int | None = None) -> float:
  """Forward FLOPs of `depth` transformer blocks over one sequence; of the last, only `read` tokens are computed."""

  def block(queries: int) -> float:
    projections = 2 * tokens * 2 * width**2 + queries * 2 * 2 * width**2  # K and v; q and out.
    attention = 2 * 2 * queries * tokens * width
    return projections + attention + 2 * 2 * queries * width * hidden

  return (depth - 1) * block(tokens) + block(tokens if read is None else read)
