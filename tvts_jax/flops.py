"""How much arithmetic a step is, by formula. Compiled counts see a scanned layer once, so they can't tell.

One multiply-add counts 2. Only matrix products count: the rest is below two parts in a hundred. What is counted is the
model as the paper trains it; what other objectives add to that, or leave out, is not.
"""

from tvts_jax.models.tvts import TVTSConfig


def blocks(tokens: int, width: int, hidden: int, depth: int, read: int | None = None) -> float:
  """Forward FLOPs of `depth` transformer blocks over one sequence; of the last, only `read` tokens are computed."""

  def block(queries: int) -> float:
    projections = 2 * tokens * 2 * width**2 + queries * 2 * 2 * width**2  # k and v; q and out
    attention = 2 * 2 * queries * tokens * width
    return projections + attention + 2 * 2 * queries * width * hidden

  return (depth - 1) * block(tokens) + block(tokens if read is None else read)


def train_flops(config: TVTSConfig, visible: int, length: int) -> float:
  """FLOPs of one clip in one training step: forward, and twice that backward, but for the pixels' own gradient.

  visible: tubelets of a clip; length: word pieces of a transcript.
  """
  video, text, K = config.video, config.text, config.transcripts
  embed = 2 * visible * video.pixels * video.width
  encoder = blocks(visible + 1, video.width, video.mlp_ratio * video.width, video.depth)
  words = K * blocks(length, text.dim, text.hidden_dim, text.n_layers, read=1)
  sorter = blocks(visible + 1 + K, video.width, 4 * video.width, config.sort_depth, read=K)
  sorter += 2 * K * video.width * config.transcripts
  common = 0 if config.projection == 'none' else 2 * config.common * (video.width + text.dim)
  return 3 * (embed + encoder + words + sorter + common) - embed
