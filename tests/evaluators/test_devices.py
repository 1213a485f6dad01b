"""Evaluators on several devices."""

import jax
import numpy as np
import pytest

from tests.evaluators.test_evaluators import bench, build, root
from tests.support import clips
from tvts_jax.errors import UserError

__all__ = ['bench', 'root']  # Fixtures.
DEVICES = 8


def test_one_device_finds_what_eight_find(root, bench):
  many = build(root, bench[2], video_retrieval={})['video_retrieval'].look(bench[3])
  mesh = clips.mesh(jax.devices()[:1])
  one = build(root, bench[2], mesh, video_retrieval={})['video_retrieval'].clips.features(bench[3])
  for kind in ('cls', 'embed'):
    np.testing.assert_allclose(one[kind][one['valid'][:, 0]], many.features[kind], atol=2e-5)
  assert not one['valid'][4] and one['valid'].sum() == 12


def test_a_batch_that_does_not_fit_the_devices(root, bench):
  with pytest.raises(UserError, match='batch=12 is not a multiple of 8'):
    build(root, bench[2], video_retrieval={'batch': 12})
