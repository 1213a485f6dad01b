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
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


class TVTS(nn.Module):
  def __init__(self, config):
    super().__init__()
    video, text, common = config['video'], config['text'], config['common']
    self.config = config
    self.text_model = TextEncoder(text)
    self.video_model = VideoEncoder(video)
    if config['projection'] == 'none':
      self.txt_proj, self.vid_proj = nn.Identity(), nn.Identity()
    else:
      rectify = [nn.ReLU()] if config['projection'] == 'relu_linear' else []
      self.txt_proj = nn.Sequential(*rectify, nn.Linear(text['dim'], common))
      self.vid_proj = nn.Sequential(nn.Linear(video['width'], common))
    heads = config['sort_heads'] or video['heads']
    self.pred_model = Sorter(config['transcripts'], video['width'], text['dim'], heads, config['sort_depth'])
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
      video_tokens [B, 1+N, D], [CLS] first; video_embed [B, C]; text_cls [B, K, E]; text_embed [B, C], one point
      for all transcripts of a clip; sort_logits [B, K, K], row i for the places that the i-th transcript may have.
    """
    video_tokens = self.video_model(video, visible)
    text_cls = self.text_cls(tokens, token_mask)
    return {
      'video_tokens': video_tokens,
      'video_embed': self.vid_proj(video_tokens[:, 0]),
      'text_cls': text_cls,
      'text_embed': self.embed_text(text_cls),
      # Without the stop the text encoder learns to sort by itself.
      'sort_logits': self.pred_model(video_tokens, text_cls.detach() if self.stop_gradient else text_cls),
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
    """[CLS] of each transcript by itself, [B, K, E]."""
    mask = None if token_mask is None else token_mask.flatten(0, 1)
    return self.text_model(tokens.flatten(0, 1), mask)[:, 0].unflatten(0, tokens.shape[:2])

  def embed_text(self, text_cls):
    return self.txt_proj(text_cls).mean(1)


class VideoEncoder(nn.Module):
  def __init__(self, config):
    super().__init__()
    width, patch, tubelet = config['width'], config['patch'], config['tubelet']
    self.image_size = config['image_size']
    self.places = (config['image_size'] // patch) ** 2
    self.tubelet = tubelet
    self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
    self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.places, width))
    self.temporal_embed = nn.Parameter(torch.zeros(1, config['frames'] // tubelet, width))
    cube = (tubelet, patch, patch)
    self.patch_embed = nn.ModuleDict({'proj': nn.Conv3d(3, width, cube, stride=cube)})
    block = lambda: PreNormBlock(width, config['heads'], config['mlp_ratio'] * width)
    self.blocks = nn.ModuleList([block() for _ in range(config['depth'])])
    self.norm = nn.LayerNorm(width, eps=1e-6)

  def forward(self, video, visible=None):
    """Tokens of [CLS] and of the visible tubelets, [B, 1+N, D]."""
    B, frames, _, *size = video.shape
    longest = self.temporal_embed.shape[1] * self.tubelet
    if size != [self.image_size, self.image_size]:
      raise ValueError(f'the model reads frames of {self.image_size}×{self.image_size} pixels, not {size}')
    if frames % self.tubelet or not 0 < frames <= longest:
      raise ValueError(f'the model reads up to {longest} frames, in multiples of {self.tubelet}, not {frames}')
    if video.dtype == torch.uint8:
      mean, std = (torch.tensor(colour, device=video.device)[:, None, None] for colour in (PIXEL_MEAN, PIXEL_STD))
      video = (video / 255 - mean) / std
    video = video.to(self.cls_token.dtype)
    x = self.patch_embed['proj'](video.transpose(1, 2)).flatten(2).transpose(1, 2)  # [B, T·S, D].
    slots = frames // self.tubelet
    x = x + self.pos_embed[:, 1:].repeat(1, slots, 1)
    x = x + self.temporal_embed[:, :slots].repeat_interleave(self.places, 1)
    if visible is not None:
      x = x.gather(1, visible[:, :, None].expand(-1, -1, x.shape[-1]))
    x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(B, -1, -1), x], 1)
    for block in self.blocks:
      x = block(x)
    return self.norm(x)


class TextEncoder(nn.Module):
  """DistilBERT."""

  def __init__(self, config):
    super().__init__()
    width = config['dim']
    self.embeddings = nn.ModuleDict(
      {
        'word_embeddings': nn.Embedding(config['vocab_size'], width),
        'position_embeddings': nn.Embedding(config['max_position_embeddings'], width),
        'LayerNorm': nn.LayerNorm(width, eps=1e-12),
      }
    )
    self.dropout = nn.Dropout(config['dropout'])
    layers = [PostNormBlock(config) for _ in range(config['n_layers'])]
    self.transformer = nn.ModuleDict({'layer': nn.ModuleList(layers)})

  def forward(self, tokens, mask=None):
    """Word pieces [R, L] → their states [R, L, E]."""
    longest = self.embeddings['position_embeddings'].num_embeddings
    if tokens.shape[1] > longest:
      raise ValueError(f'the model reads texts of up to {longest} word pieces, not {tokens.shape[1]}; truncate them')
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    x = self.embeddings['word_embeddings'](tokens) + self.embeddings['position_embeddings'](positions)
    x = self.dropout(self.embeddings['LayerNorm'](x))
    if mask is not None:
      lowest = torch.finfo(x.dtype).min
      mask = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill(~mask.bool(), lowest)
      mask = mask[:, None, None]
    for layer in self.transformer['layer']:
      x = layer(x, mask)
    return x


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

  def __init__(self, width, heads, hidden):
    super().__init__()
    self.heads = heads
    self.norm1 = nn.LayerNorm(width, eps=1e-6)
    self.attn = nn.ModuleDict({'qkv': nn.Linear(width, 3 * width), 'proj': nn.Linear(width, width)})
    self.norm2 = nn.LayerNorm(width, eps=1e-6)
    self.mlp = nn.ModuleDict({'fc1': nn.Linear(width, hidden), 'fc2': nn.Linear(hidden, width)})

  def forward(self, x):
    q, k, v = self.attn['qkv'](self.norm1(x)).chunk(3, -1)
    x = x + self.attn['proj'](attend(q, k, v, self.heads))
    return x + self.mlp['fc2'](F.gelu(self.mlp['fc1'](self.norm2(x))))


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


def attend(q, k, v, heads, mask=None, dropout=0.0):
  """Attention of several heads, [B, N, D] each; a mask is added to the logits."""
  q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
  return F.scaled_dot_product_attention(q, k, v, mask, dropout).transpose(1, 2).flatten(2)
