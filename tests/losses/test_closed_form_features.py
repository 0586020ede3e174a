"""Losses on features of sines and cosines, with the values of published code.

The inputs are formulas, so that any framework can repeat them: 6 examples, maps
of 8 x 8 with 4 channels (counted channel by channel), embeddings of 16 numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import losses

K = np.arange(1536)
MAPS = tuple(
  np.moveaxis(flat.reshape(6, 4, 8, 8), 1, -1)
  for flat in (np.sin(0.37 * K + 0.11), np.cos(0.23 * K - 0.4))
)
ROWS = (
  np.sin(0.37 * K[:96] + 0.11).reshape(6, 16),
  np.cos(0.23 * K[:96] - 0.4).reshape(6, 16),
)
ROW, CLASS = np.arange(6)[:, None], np.arange(10)[None]
LOGITS = (
  3 * np.sin(0.7 * ROW + 1.3 * CLASS + 0.5),
  4 * np.cos(0.9 * ROW - 0.8 * CLASS + 0.2),
)
START = losses.vid_initial_log_scale()
SCALE = np.array([1.0, 0.5, 2.0, 0.1])
BIAS = np.array([0.0, -0.3, 0.4, 0.8])
ONES = np.ones((6, 1, 1, 4))


def srrl():
  return losses.srrl(MAPS[0], LOGITS[0], MAPS[1], LOGITS[1])


# what -> (the value, what the published code gives)
VALUES = {
  "fitnet": (lambda: losses.fitnet(*MAPS), 0.994179646621),
  "at": (lambda: losses.at(*MAPS), 0.000453553843),
  "at, paper": (lambda: losses.at(*MAPS, form="paper"), 0.170336038895),
  "nst": (lambda: losses.nst(*MAPS), 0.984761381525),
  "sp": (lambda: losses.sp(*MAPS), 0.321812860333),
  "rkd": (lambda: losses.rkd(*ROWS), 18.868457263679),
  "rkd_distance": (lambda: losses.rkd_distance(*ROWS), 0.195314037603),
  "rkd_angle": (lambda: losses.rkd_angle(*ROWS), 0.279712126472),
  "pkt": (lambda: losses.pkt(*ROWS), 0.052359085024),
  "cc": (lambda: losses.cc(*ROWS), 7.617916891558),
  "vid": (lambda: losses.vid(*MAPS, np.full(4, START)), 0.904136920879),
  "ft": (lambda: losses.ft(*MAPS), 0.018141922562),
  "ab": (lambda: losses.ab(*MAPS), 1.142201938220),
  "fsp": (
    lambda: losses.fsp([MAPS[0], MAPS[0] ** 2], [MAPS[1], MAPS[1] ** 2]),
    0.003142652858,
  ),
  "reviewkd": (lambda: losses.reviewkd(*MAPS), 0.581800232306),
  "ofd": (
    lambda: losses.ofd(*MAPS, np.array([-0.1, -0.3, -0.5, -0.7])),
    196.268288889795,
  ),
  "mgd": (lambda: losses.mgd(*MAPS, keep=ONES, alpha=1.0), 254.509989534880),
  "cwd": (lambda: losses.cwd(*MAPS), 0.440333157061),
  "pearson": (lambda: losses.pearson(*MAPS), 0.989592212676),
  "bert_pkd": (lambda: losses.bert_pkd(*ROWS), 1.915362662376),
  "srrl": (srrl, 65.993986618994),
  "srd": (lambda: losses.srd(*MAPS), 8.141423186076),
  "crd_nce": (
    lambda: losses.crd_nce(
      np.exp(0.5 * np.sin(0.3 * np.arange(54))).reshape(6, 9) / 50, n_data=50
    ),
    3.217493165496,
  ),
}


@pytest.mark.parametrize("name", VALUES)
def test_the_mean_over_the_batch_is_the_published_value(name):
  compute, wanted = VALUES[name]
  with jax.enable_x64(True):
    np.testing.assert_allclose(jnp.mean(compute()), wanted, rtol=5e-9)


def test_margins_of_ofd():
  with jax.enable_x64(True):
    np.testing.assert_allclose(
      losses.ofd_margin(SCALE, BIAS),
      [-0.797884560803, -0.529573568307, -1.458831696171, -0.3],
      rtol=1e-10,
    )


def test_the_forms_of_the_papers_differ_by_their_known_factors():
  code = losses.fitnet(*MAPS)
  paper = losses.fitnet(*MAPS, form="paper")
  np.testing.assert_allclose(paper, code * 4 * 8 * 8 / 2, rtol=1e-5)
  root = losses.cckd(*ROWS)
  square = losses.cckd(*ROWS, form="paper")
  np.testing.assert_allclose(square, (root * 36) ** 2 / 36, rtol=1e-5)
  np.testing.assert_allclose(
    losses.ab(*MAPS, scale=1.0), 1000 / 3 * losses.ab(*MAPS), rtol=1e-6
  )
