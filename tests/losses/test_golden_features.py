"""Values and gradients of the losses on features against published code.

`golden/feature_losses.npz` holds inputs and what the reference code returned
for them in float64, as in `test_golden_logits.py`.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import losses

FILE = pathlib.Path(__file__).parent / "golden" / "feature_losses.npz"
GOLDEN: dict[str, dict[str, np.ndarray]] = {}
with np.load(FILE, allow_pickle=False) as arrays:
  for key in arrays.files:
    case, name = key.split("/")
    # Inputs are stored in float32, which holds them exactly.
    wide = arrays[key].dtype.kind == "f"
    value = arrays[key].astype(np.float64) if wide else arrays[key]
    GOLDEN.setdefault(case, {})[name] = value


def number(d, name):
  return d[name].item()


def of_pair(loss, kind, *extra, **options):
  """A loss on one feature each; options name entries or hold values."""

  def value(d, s):
    chosen = {
      k: number(d, v) if isinstance(v, str) and v in d else v
      for k, v in options.items()
    }
    more = (jnp.asarray(d[k]) for k in extra)
    return jnp.mean(
      loss(s[0], jnp.asarray(d[f"teacher_{kind}"]), *more, **chosen)
    )

  return value


def of_layers(loss, **options):
  """A loss on lists of features."""

  def value(d, s):
    chosen = {k: number(d, v) for k, v in options.items()}
    teacher = [jnp.asarray(d[k]) for k in layers(d, "teacher_feat")]
    return jnp.mean(loss(s, teacher, **chosen))

  return value


def layers(d, prefix):
  return sorted(k for k in d if k.startswith(prefix))


def masked_mean(values, mask):
  mask = jnp.broadcast_to(mask, values.shape).astype(values.dtype)
  return jnp.sum(values * mask) / jnp.sum(mask)


def on_positions(loss, *, pairs=False, **options):
  """A loss on hidden states or attention, its mean over real positions."""

  def value(d, s):
    mask = jnp.asarray(d["mask"], bool)
    teacher = [jnp.asarray(d[k]) for k in layers(d, "teacher_")]
    if len(s) == 1:
      s, teacher = s[0], teacher[0]
    values = loss(s, teacher, where=mask, **options)
    real = mask
    if pairs:
      real = mask[:, :, None] & mask[:, None, :]
    while real.ndim < values.ndim:
      real = real[:, None]
    return masked_mean(values, real)

  return value


def on_examples(loss):
  """A loss on hidden states that gives one value per example."""

  def value(d, s):
    teacher = [jnp.asarray(d[k]) for k in layers(d, "teacher_hidden")]
    if len(s) == 1:
      return jnp.mean(loss(s[0], teacher[0]))
    mask = jnp.asarray(d["mask"], bool)
    return jnp.mean(loss(s, teacher, where=mask))

  return value


def mgd(d, s):
  keep = jnp.asarray(d["keep_mask"])
  keep = keep[:, None, None] if keep.ndim == 2 else keep[..., None]

  def generate(x):
    for i in (0, 1):
      x = jax.lax.conv_general_dilated(
        x,
        jnp.asarray(d[f"k{i}"]),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )
      x = x + jnp.asarray(d[f"b{i}"]).reshape(1, 1, 1, -1)
      x = jax.nn.relu(x) if i == 0 else x
    return x

  return jnp.mean(
    losses.mgd(
      s[0],
      jnp.asarray(d["teacher_feat"]),
      keep=keep,
      generate=generate,
      alpha=number(d, "alpha"),
    )
  )


def crd_memory(d):
  z = lambda name: jnp.asarray(d.get(name, np.zeros(())))
  return losses.CrdMemory(
    jnp.asarray(d["memory_student"]),
    jnp.asarray(d["memory_teacher"]),
    z("Z_student"),
    z("Z_teacher"),
  )


def crd(d, s):
  index = jnp.asarray(d["contrast_index"])
  return jnp.mean(
    losses.crd(
      s[0],
      jnp.asarray(d["teacher_emb"]),
      crd_memory(d),
      index,
      temperature=number(d, "T"),
    )
  )


CASES = {
  "ab": of_layers(losses.ab, margin="margin"),
  "at": of_pair(losses.at, "feat", p="p"),
  "at_paper": of_pair(losses.at, "feat", form="paper"),
  "cc": of_pair(losses.cc, "emb"),
  "cckd_bilinear": of_pair(
    losses.cckd, "emb", kernel="bilinear", normalize=False
  ),
  "cckd_gaussian": of_pair(
    losses.cckd, "emb", gamma="gamma", max_p="max_p", normalize=False
  ),
  "crd": crd,
  "crd_nce": lambda d, s: jnp.mean(
    losses.crd_nce(s[0], n_data=number(d, "n_data"))
  ),
  "cwd": of_pair(losses.cwd, "feat", temperature="tau"),
  "fitnet": of_pair(losses.fitnet, "feat"),
  "fsp": of_layers(losses.fsp),
  "ft": of_pair(losses.ft, "feat", p1="p1", p2="p2"),
  "ft_paper": of_pair(losses.ft, "feat", form="paper", p2="p"),
  "hidden_cosine": on_positions(losses.hidden_cosine),
  "hidden_mse": on_positions(losses.hidden_mse),
  "mgd": mgd,
  "nst": of_pair(losses.nst, "feat"),
  "ofd": of_pair(losses.ofd, "feat", "margin"),
  "pkt": of_pair(losses.pkt, "emb"),
  "reviewkd_hcl": of_layers(losses.reviewkd),
  "rkd": of_pair(losses.rkd, "emb", distance_weight="w_d", angle_weight="w_a"),
  "rkd_angle": of_pair(losses.rkd_angle, "emb"),
  "rkd_distance": of_pair(losses.rkd_distance, "emb"),
  "sp": of_pair(losses.sp, "feat"),
  "tb_att_ce": on_positions(losses.attention_ce),
  "tb_att_ce_mean": on_positions(losses.attention_ce, heads="mean"),
  "tb_att_mse": on_positions(losses.attention_mse, pairs=True),
  "tb_att_mse_sum": on_positions(losses.attention_mse, pairs=True, heads="sum"),
  "tb_cos": on_positions(losses.hidden_cosine),
  "tb_fsp": on_examples(losses.hidden_fsp),
  "tb_hid_mse": on_positions(losses.hidden_mse),
  "tb_mmd": on_positions(losses.hidden_mmd, pairs=True),
  "tb_pkd": on_examples(losses.bert_pkd),
  "vid": of_pair(losses.vid, "feat", "log_scale"),
}


def student_of(d):
  return layers(d, "student_") or ["scores"]


def files_of(item):
  return [c for c in GOLDEN if c.rsplit("__", 1)[0] == item]


def test_every_case_of_the_file_is_used():
  assert {c.rsplit("__", 1)[0] for c in GOLDEN} == {*CASES, "ofd_margin"}


@pytest.mark.parametrize("case", [c for i in CASES for c in files_of(i)])
def test_value_and_gradient_are_those_of_the_published_code(case):
  compute, d = CASES[case.rsplit("__", 1)[0]], GOLDEN[case]
  names = student_of(d)
  for dtype, tolerance in (("float64", 2e-6), ("float32", 2e-4)):
    with jax.enable_x64(dtype == "float64"):
      cast = {
        k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in d.items()
      }
      student = [jnp.asarray(cast[name]) for name in names]
      value, gradients = jax.jit(
        jax.value_and_grad(lambda s, cast=cast: compute(cast, s))
      )(student)
      assert value.dtype == dtype
      np.testing.assert_allclose(value, d["loss"], rtol=tolerance)
      for name, gradient in zip(names, gradients, strict=True):
        wanted = d[f"grad_{name}"]
        largest = max(np.max(np.abs(wanted)), 1e-12)
        np.testing.assert_allclose(
          gradient, wanted, rtol=0, atol=tolerance * largest
        )


@pytest.mark.parametrize("case", files_of("vid"))
def test_the_variance_of_vid_is_trained(case):
  d = GOLDEN[case]
  with jax.enable_x64(True):
    mean = lambda scale: jnp.mean(
      losses.vid(
        jnp.asarray(d["student_feat"]), jnp.asarray(d["teacher_feat"]), scale
      )
    )
    gradient = jax.grad(mean)(jnp.asarray(d["log_scale"]))
  np.testing.assert_allclose(gradient, d["grad_log_scale"], rtol=1e-8)


@pytest.mark.parametrize("case", files_of("ofd_margin"))
def test_the_margins_of_ofd_are_those_of_the_published_code(case):
  d = GOLDEN[case]
  with jax.enable_x64(True):
    margin = losses.ofd_margin(d["bn_scale"], d["bn_bias"])
  np.testing.assert_allclose(margin, d["margin"], rtol=1e-8)


@pytest.mark.parametrize("case", files_of("crd"))
def test_the_memory_of_crd_moves_as_in_the_published_code(case):
  d = GOLDEN[case]
  with jax.enable_x64(True):
    memory = losses.crd_update(
      crd_memory(d),
      jnp.asarray(d["student_emb"]),
      jnp.asarray(d["teacher_emb"]),
      jnp.asarray(d["contrast_index"]),
      temperature=number(d, "T"),
      momentum=number(d, "momentum"),
    )
  for side in ("student", "teacher"):
    np.testing.assert_allclose(
      getattr(memory, side), d[f"new_memory_{side}"], rtol=1e-9
    )
    np.testing.assert_allclose(
      getattr(memory, f"{side}_z"), d[f"Z_{side}_used"], rtol=1e-9
    )
