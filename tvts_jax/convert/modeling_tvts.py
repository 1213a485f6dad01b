"""TVTS in plain PyTorch: a video encoder, a text encoder, their common space, and the sorter of transcripts.

  model = TVTS.from_folder('.')  # The folder that this file lies in, with config.json and model.safetensors.
  video = model.encode_video(pixel_values)                # [B, C]
  text = model.encode_text(input_ids, attention_mask)     # [B, C]

It needs torch and safetensors and nothing else. Parameter names are those of the published TVTS v1 weights.

Shapes: B clips, F frames of Y×X pixels, T = F / tubelet time slots, S places of the spatial grid, N visible tubelets,
K transcripts, L word pieces, D width of the video tokens, E width of the text, C width of the common space.
A tubelet's position is t·S + s. Clips are [B, F, 3, Y, X]: floats with zero mean and unit variance (see
preprocessor_config.json), or uint8, which is brought there.
"""

import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

FORMAT_VERSION = 1
# Mean and standard deviation of pixels, red, green and blue in [0, 1].
STATISTICS = {
  'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
  'clip': ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
  'slowfast': ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
  'half': ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
ACTIVATIONS = {'gelu': F.gelu, 'quick_gelu': lambda x: x * torch.sigmoid(1.702 * x)}


class TVTS(nn.Module):
  def __init__(self, config):
    super().__init__()
    video, text, common = config['video'], config['text'], config['common']
    self.config = config
    self.text_model = TEXTS[config['text_encoder']](text)
    self.video_model = ENCODERS[config['encoder']](video)
    width, text_width, heads = video['width'], text['dim'], config['sort_heads'] or video['heads']
    if config['projection'] == 'none':
      self.txt_proj, self.vid_proj = nn.Identity(), nn.Identity()
    elif config['projection'] == 'clip':
      self.txt_proj, self.vid_proj = nn.Linear(text_width, common, False), nn.Linear(width, common, False)
      width, text_width, heads = common, common, config['sort_heads'] or max(1, common // 64)
    else:
      rectify = [nn.ReLU()] if config['projection'] == 'relu_linear' else []
      self.txt_proj = nn.Sequential(*rectify, nn.Linear(text_width, common))
      self.vid_proj = nn.Sequential(nn.Linear(width, common))
    self.pred_model = Sorter(config['transcripts'], width, text_width, heads, config['sort_depth'])
    self.stop_gradient = config['stop_gradient']

  @classmethod
  def from_folder(cls, folder):
    """The model of a folder, in evaluation mode and in the type of its weights."""
    folder = pathlib.Path(folder)
    config = json.loads((folder / 'config.json').read_text('utf-8'))
    if config.get('format_version') != FORMAT_VERSION:
      raise ValueError(f'{folder} has format_version={config.get("format_version")!r}, not {FORMAT_VERSION}')
    with torch.device('meta'):  # No time is lost on values that are replaced at once.
      model = cls(config)
    model.load_state_dict(load_file(folder / 'model.safetensors'), strict=True, assign=True)
    return model.eval()

  def forward(self, video, tokens, token_mask=None, visible=None):
    """Every output by name.

    Args:
      video: [B, F, 3, Y, X].
      tokens: [B, K, L] word pieces of the K transcripts, in any order.
      token_mask: [B, K, L], true where a word piece is and false where padding is; all are read by default.
      visible: [B, N] positions of the tubelets to read; all are by default.

    Returns:
      video_tokens [B, 1+N, D], that of the clip first; video_embed [B, C]; text_cls [B, K, E]; text_embed [B, C], one
      point for all transcripts of a clip; sort_logits [B, K, K], row i for the places that the i-th transcript may
      have.
    """
    video_tokens, sorted_tokens = self.video_model.both(video, visible)
    text_cls = self.text_cls(tokens, token_mask)
    # Without the stop the text encoder learns to sort by itself.
    sorted_text = text_cls.detach() if self.stop_gradient else text_cls
    if self.config['projection'] == 'clip':
      sorted_tokens, sorted_text = self.vid_proj(sorted_tokens), self.txt_proj(text_cls)
      sorted_text = sorted_text.detach() if self.stop_gradient else sorted_text
    return {
      'video_tokens': video_tokens,
      'video_embed': self.vid_proj(video_tokens[:, 0]),
      'text_cls': text_cls,
      'text_embed': self.embed_text(text_cls),
      'sort_logits': self.pred_model(sorted_tokens, sorted_text),
    }

  def encode_video(self, video, visible=None):
    """Clips [B, F, 3, Y, X] → [B, C], not normalised; compare by cosine."""
    return self.vid_proj(self.video_model(video, visible)[:, 0])

  def encode_text(self, tokens, token_mask=None):
    """Texts [B, L], or K transcripts of each clip [B, K, L] → [B, C], not normalised; compare by cosine."""
    if tokens.ndim == 2:
      tokens = tokens[:, None]
      token_mask = None if token_mask is None else token_mask[:, None]
    return self.embed_text(self.text_cls(tokens, token_mask))

  def text_cls(self, tokens, token_mask):
    """The vector of each transcript by itself, [B, K, E]."""
    mask = None if token_mask is None else token_mask.flatten(0, 1)
    return self.text_model(tokens.flatten(0, 1), mask).unflatten(0, tokens.shape[:2])

  def embed_text(self, text_cls):
    return self.txt_proj(text_cls).mean(1)


class VideoEncoder(nn.Module):
  """A ViT over tubelets, with attention over space and time at once."""

  def __init__(self, config):
    super().__init__()
    width, patch, tubelet, eps = (config[name] for name in ('width', 'patch', 'tubelet', 'eps'))
    self.config = config
    self.image_size = config['image_size']
    self.places = (config['image_size'] // patch) ** 2
    self.tubelet, self.slots = tubelet, config['frames'] // tubelet
    learned, cls = config['positions'] == 'learned', config['pool'] == 'cls'
    if cls:
      self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
    if learned:
      self.pos_embed = nn.Parameter(torch.zeros(1, cls + self.places, width))
    if learned and self.has_time():
      self.temporal_embed = nn.Parameter(torch.zeros(1, self.slots, width))
    cube = (tubelet, patch, patch)
    self.patch_embed = nn.ModuleDict({'proj': nn.Conv3d(3, width, cube, stride=cube, bias=config['patch_bias'])})
    if config['pre_norm']:
      self.norm_pre = nn.LayerNorm(width, eps=eps)
    self.blocks = nn.ModuleList([self.block() for _ in range(config['depth'])])
    self.norm = nn.LayerNorm(width, eps=eps)

  def has_time(self):
    return True

  def block(self):
    config = self.config
    hidden = config['mlp_ratio'] * config['width']
    return PreNormBlock(config['width'], config['heads'], hidden, config['eps'], config['activation'])

  def forward(self, video, visible=None):
    """Tokens of the clip and of the visible tubelets, [B, 1+N, D]."""
    return self.both(video, visible)[0]

  def both(self, video, visible):
    """The same, and the tokens that the sorter reads."""
    x, slots = self.embed(video, visible)
    return self.pool(self.run(x, slots))

  def run(self, x, slots):
    if self.config['pre_norm']:
      x = self.norm_pre(x)
    for block in self.blocks:
      x = block(x, slots)
    return x

  def pool(self, x):
    pool = self.config['pool']
    tokens, bare = x if pool == 'norm_of_mean' else self.norm(x), x[:, pool == 'cls' :]
    if pool != 'cls':
      mean = tokens.mean(1, keepdim=True)
      tokens = torch.cat([self.norm(mean) if pool == 'norm_of_mean' else mean, tokens], 1)
    return tokens, bare if self.config['sorts'] == 'bare' else tokens

  def embed(self, video, visible):
    B, frames, _, *size = video.shape
    if size != [self.image_size, self.image_size]:
      raise ValueError(f'the model reads frames of {self.image_size}×{self.image_size} pixels, not {size}')
    longest = self.slots * self.tubelet
    if frames % self.tubelet or not 0 < frames <= longest:
      raise ValueError(f'the model reads up to {longest} frames, in multiples of {self.tubelet}, not {frames}')
    if video.dtype == torch.uint8:
      statistics = STATISTICS[self.config['statistics']]
      mean, std = (torch.tensor(colour, device=video.device)[:, None, None] for colour in statistics)
      video = (video / 255 - mean) / std
    video = video.to(self.norm.weight.dtype)
    x = self.patch_embed['proj'](video.transpose(1, 2)).flatten(2).transpose(1, 2)  # [B, T·S, D].
    slots, cls = frames // self.tubelet, self.config['pool'] == 'cls'
    if self.config['positions'] == 'sincos':
      x = x + sincos(self.slots * self.places, x.shape[-1], x)[: x.shape[1]]
    else:
      x = x + self.pos_embed[:, cls:].repeat(1, slots, 1)
      if self.has_time():
        x = x + self.temporal_embed[:, :slots].repeat_interleave(self.places, 1)
    if visible is not None:
      x = x.gather(1, visible[:, :, None].expand(-1, -1, x.shape[-1]))
    if cls:
      token = self.cls_token + self.pos_embed[:, :1] if self.config['positions'] == 'learned' else self.cls_token
      x = torch.cat([token.expand(B, -1, -1), x], 1)
    return x, slots


class DividedEncoder(VideoEncoder):
  """Tubelets attend over time and over space apart."""

  def has_time(self):
    return self.config['time']

  def block(self):
    config = self.config
    hidden = config['mlp_ratio'] * config['width']
    own = config['width'], config['heads'], hidden, config['eps'], config['activation']
    return DividedBlock(*own, time=config['time'])


class TimeSformerEncoder(VideoEncoder):
  def block(self):
    config = self.config
    hidden = config['mlp_ratio'] * config['width']
    return TimeSformerBlock(config['width'], config['heads'], hidden, config['eps'], config['activation'])


class FramesEncoder(VideoEncoder):
  """Each frame is seen by itself, and their mean stands for the clip."""

  def has_time(self):
    return False

  def both(self, video, visible):
    x, slots = self.embed(video, visible)
    x = torch.cat([x[:, :1].repeat_interleave(slots, 0), x[:, 1:].reshape(len(x) * slots, -1, x.shape[-1])], 1)
    tokens, read = self.pool(self.run(x, 1))
    by_clip = lambda x: x.reshape(len(video), -1, x.shape[-1])
    mean = tokens[:, 0].unflatten(0, (-1, slots)).mean(1, keepdim=True)
    return torch.cat([mean, by_clip(tokens[:, 1:])], 1), by_clip(read)


def sincos(count, width, like):
  """[N, D], the sine and the cosine by turns, of ever longer waves over the number of a tubelet."""
  wave = 10000 ** (torch.arange(width, dtype=torch.float64) // 2 * 2 / width)
  angle = torch.arange(count, dtype=torch.float64)[:, None] / wave
  return torch.where(torch.arange(width) % 2 == 1, angle.cos(), angle.sin()).to(like)


class DistilBert(nn.Module):
  """Word pieces [R, L] → [CLS] of each text, [R, E]."""

  def __init__(self, config):
    super().__init__()
    width, tables = config['dim'], {'word': config['vocab_size'], 'position': config['max_position_embeddings']}
    if 'types' in config:
      tables['token_type'] = config['types']
    self.embeddings = nn.ModuleDict(
      {f'{name}_embeddings': nn.Embedding(rows, width) for name, rows in tables.items()}
      | {'LayerNorm': nn.LayerNorm(width, eps=1e-12)}
    )
    self.dropout = nn.Dropout(config['dropout'])
    layers = nn.ModuleList([self.layer(config) for _ in range(config['n_layers'])])
    self.stack(layers)

  def layer(self, config):
    return PostNormBlock(config)

  def stack(self, layers):
    self.transformer = nn.ModuleDict({'layer': layers})

  def layers(self):
    return self.transformer['layer']

  def forward(self, tokens, mask=None):
    check_length(tokens, self.embeddings['position_embeddings'].num_embeddings)
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    x = self.embeddings['word_embeddings'](tokens) + self.embeddings['position_embeddings'](positions)
    if 'token_type_embeddings' in self.embeddings:
      x = x + self.embeddings['token_type_embeddings'].weight[0]
    x = self.dropout(self.embeddings['LayerNorm'](x))
    if mask is not None:
      lowest = torch.finfo(x.dtype).min
      mask = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill(~mask.bool(), lowest)
      mask = mask[:, None, None]
    for layer in self.layers():
      x = layer(x, mask)
    return x[:, 0]


class Bert(DistilBert):
  def layer(self, config):
    return BertBlock(config)

  def stack(self, layers):
    self.encoder = nn.ModuleDict({'layer': layers})

  def layers(self):
    return self.encoder['layer']


class ClipText(nn.Module):
  """Word pieces [R, L] → the end of each text, [R, E]."""

  def __init__(self, config):
    super().__init__()
    width, eps = config['dim'], config['eps']
    self.token_embedding = nn.Embedding(config['vocab_size'], width)
    self.positional_embedding = nn.Parameter(torch.zeros(config['max_position_embeddings'], width))
    block = lambda: PreNormBlock(width, config['n_heads'], config['hidden_dim'], eps, config['activation'])
    self.blocks = nn.ModuleList([block() for _ in range(config['n_layers'])])
    self.norm = nn.LayerNorm(width, eps=eps)

  def forward(self, tokens, mask=None):
    check_length(tokens, len(self.positional_embedding))
    x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
    for block in self.blocks:
      x = block(x, causal=True)
    # The end has the largest of all ids.
    end = tokens.argmax(1) if mask is None else (mask.long().sum(1) - 1).clamp(min=0)
    return self.norm(x[torch.arange(len(x), device=x.device), end])


def check_length(tokens, longest):
  if tokens.shape[1] > longest:
    raise ValueError(f'the model reads texts of up to {longest} word pieces, not {tokens.shape[1]}; truncate them')


class Sorter(nn.Module):
  """Where in the true order does each transcript belong? Texts carry no position, which would give it away."""

  def __init__(self, transcripts, width, text_width, heads, depth):
    super().__init__()
    self.type_embed = nn.Parameter(torch.zeros(1, 2, width))  # Of video and of text.
    self.text_in = None if text_width == width else nn.Linear(text_width, width)
    self.blocks = nn.ModuleList([PreNormBlock(width, heads, 4 * width) for _ in range(depth)])
    self.norm = nn.LayerNorm(width, eps=1e-6)
    self.head = nn.Linear(width, transcripts)

  def forward(self, video, text):
    """[B, V, D] and [B, K, E] → [B, K, K]."""
    if self.text_in is not None:
      text = self.text_in(text)
    x = torch.cat([text + self.type_embed[:, 1:], video + self.type_embed[:, :1]], 1)
    for block in self.blocks:
      x = block(x)
    return self.head(self.norm(x[:, : text.shape[1]]))


class PreNormBlock(nn.Module):
  """The block of ViT."""

  def __init__(self, width, heads, hidden, eps=1e-6, activation='gelu'):
    super().__init__()
    self.heads, self.activation = heads, ACTIVATIONS[activation]
    self.norm1 = nn.LayerNorm(width, eps=eps)
    self.attn = attention(width)
    self.norm2 = nn.LayerNorm(width, eps=eps)
    self.mlp = nn.ModuleDict({'fc1': nn.Linear(width, hidden), 'fc2': nn.Linear(hidden, width)})

  def forward(self, x, slots=1, causal=False):
    q, k, v = self.attn['qkv'](self.norm1(x)).chunk(3, -1)
    return self.think(x + self.attn['proj'](attend(q, k, v, self.heads, causal=causal)))

  def think(self, x):
    return x + self.mlp['fc2'](self.activation(self.mlp['fc1'](self.norm2(x))))


class DividedBlock(PreNormBlock):
  """A tubelet asks [CLS] and those of its place, then [CLS] and those of its time slot; [CLS] asks all, both times."""

  def __init__(self, width, heads, hidden, eps, activation, time):
    super().__init__(width, heads, hidden, eps, activation)
    if time:
      self.norm3, self.timeattn = nn.LayerNorm(width, eps=eps), attention(width)
    self.time = time

  def forward(self, x, slots=1):
    t = x + self.divided(self.timeattn, self.norm3(x), slots, over_time=True) if self.time else x
    return self.think(x + self.divided(self.attn, self.norm1(t), slots, over_time=False))

  def divided(self, own, x, slots, over_time):
    q, k, v = own['qkv'](x).chunk(3, -1)
    n = (x.shape[1] - 1) // slots

    def grouped(x):
      grid = x[:, 1:].unflatten(1, (slots, n))
      return (grid.transpose(1, 2) if over_time else grid).flatten(0, 1)

    groups = n if over_time else slots
    with_cls = lambda x: torch.cat([x[:, :1].repeat_interleave(groups, 0), grouped(x)], 1)
    out = attend(grouped(q), with_cls(k), with_cls(v), self.heads).unflatten(0, (len(x), groups))
    out = (out.transpose(1, 2) if over_time else out).flatten(1, 2)
    return own['proj'](torch.cat([attend(q[:, :1], k, v, self.heads), out], 1))


class TimeSformerBlock(PreNormBlock):
  """Tubelets attend over time without [CLS], then each time slot over space with a copy of it; these are averaged."""

  def __init__(self, width, heads, hidden, eps, activation):
    super().__init__(width, heads, hidden, eps, activation)
    self.norm3, self.timeattn, self.time_fc = nn.LayerNorm(width, eps=eps), attention(width), nn.Linear(width, width)

  def attended(self, own, x):
    return own['proj'](attend(*own['qkv'](x).chunk(3, -1), self.heads))

  def forward(self, x, slots=1):
    cls, grid = x[:, :1], x[:, 1:].unflatten(1, (slots, -1))  # [B, T, n, D].
    over_time = self.attended(self.timeattn, self.norm3(grid.transpose(1, 2).flatten(0, 1)))
    grid = grid + self.time_fc(over_time).unflatten(0, (len(x), -1)).transpose(1, 2)
    frames = torch.cat([cls.repeat_interleave(slots, 0), grid.flatten(0, 1)], 1)
    over_space = self.attended(self.attn, self.norm1(frames)).unflatten(0, (len(x), slots))
    cls = cls + over_space[:, :, 0].mean(1, keepdim=True)
    return self.think(torch.cat([cls, (grid + over_space[:, :, 1:]).flatten(1, 2)], 1))


class PostNormBlock(nn.Module):
  """The block of DistilBERT."""

  def __init__(self, config):
    super().__init__()
    width, hidden = config['dim'], config['hidden_dim']
    self.heads = config['n_heads']
    self.attention_dropout = config['attention_dropout']
    self.attention = nn.ModuleDict({name: nn.Linear(width, width) for name in ('q_lin', 'k_lin', 'v_lin', 'out_lin')})
    self.sa_layer_norm = nn.LayerNorm(width, eps=1e-12)
    self.ffn = nn.ModuleDict({'lin1': nn.Linear(width, hidden), 'lin2': nn.Linear(hidden, width)})
    self.dropout = nn.Dropout(config['dropout'])
    self.output_layer_norm = nn.LayerNorm(width, eps=1e-12)

  def forward(self, x, mask=None):
    q, k, v = (self.attention[name](x) for name in ('q_lin', 'k_lin', 'v_lin'))
    dropout = self.attention_dropout if self.training else 0.0
    x = self.sa_layer_norm(x + self.attention['out_lin'](attend(q, k, v, self.heads, mask, dropout)))
    y = self.dropout(self.ffn['lin2'](F.gelu(self.ffn['lin1'](x))))
    return self.output_layer_norm(x + y)


class BertBlock(nn.Module):
  """The block of BERT."""

  def __init__(self, config):
    super().__init__()
    width, hidden = config['dim'], config['hidden_dim']
    self.heads = config['n_heads']
    self.attention_dropout = config['attention_dropout']
    norm = lambda: nn.LayerNorm(width, eps=1e-12)
    own = nn.ModuleDict({name: nn.Linear(width, width) for name in ('query', 'key', 'value')})
    out = nn.ModuleDict({'dense': nn.Linear(width, width), 'LayerNorm': norm()})
    self.attention = nn.ModuleDict({'self': own, 'output': out})
    self.intermediate = nn.ModuleDict({'dense': nn.Linear(width, hidden)})
    self.output = nn.ModuleDict({'dense': nn.Linear(hidden, width), 'LayerNorm': norm()})
    self.dropout = nn.Dropout(config['dropout'])

  def forward(self, x, mask=None):
    own, out = self.attention['self'], self.attention['output']
    dropout = self.attention_dropout if self.training else 0.0
    y = attend(own['query'](x), own['key'](x), own['value'](x), self.heads, mask, dropout)
    x = out['LayerNorm'](x + self.dropout(out['dense'](y)))
    y = self.dropout(self.output['dense'](F.gelu(self.intermediate['dense'](x))))
    return self.output['LayerNorm'](x + y)


ENCODERS = {
  'vit': VideoEncoder,
  'divided': DividedEncoder,
  'timesformer': TimeSformerEncoder,
  'frames': FramesEncoder,
}
TEXTS = {'distilbert': DistilBert, 'bert': Bert, 'clip': ClipText}


def attention(width):
  return nn.ModuleDict({'qkv': nn.Linear(width, 3 * width), 'proj': nn.Linear(width, width)})


def attend(q, k, v, heads, mask=None, dropout=0.0, causal=False):
  """Attention of several heads, [B, N, D] each; a mask is added to the logits."""
  q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
  return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal).transpose(1, 2).flatten(2)
