"""Why a video or picture cannot be read, by name."""

from tvts_jax.errors import UserError

MEDIA_CODES = {
  'missing_video': 'the video is not where the source says, or is not a plain file',
  'oversized_video': 'the video is larger than the limit',
  'not_a_video': 'the file is empty, a web page, or in no container that is known',
  'no_video_stream': 'the file holds sound only',
  'unknown_codec': 'there is no decoder for the pictures',
  'truncated_video': 'the video ends before its header says, or its index is cut off',
  'corrupt_video': 'the decoder finds damage in the pictures that are needed, or in the header',
  'bad_timestamps': 'the pictures have no times that make sense',
  'no_frames': 'there is no picture where one is needed',
  'too_long': 'the video is longer than any real one',
  'too_small': 'the pictures are too small to show anything',
  'too_large': 'the pictures are larger than any real ones',
  'not_an_image': 'the file is not a JPEG, PNG or WebP',
  'corrupt_image': 'the image is damaged, cut short, or says another size than it has',
  'bad_archive': 'the tar or gzip file is damaged, cut short, or holds links or paths out of it',
}


class MediaError(UserError):
  """A video or picture that cannot be read, with a code out of `codes` and a detail for people."""

  codes = MEDIA_CODES

  def __init__(self, code: str, detail: str):
    if code not in self.codes:
      raise KeyError(f'{code!r} is not a code of {type(self).__name__}; known: {", ".join(sorted(self.codes))}')
    super().__init__(f'{code}: {detail}')
    self.code, self.detail = code, detail

  def __reduce__(self):
    return type(self), (self.code, self.detail)
