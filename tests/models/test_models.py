"""Models: sizes as published, taps, one way to call ours and a user's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kdcl_jax import models
from kdcl_jax.errors import UserError

# 100 classes, 32 x 32 x 3: parameters and shapes of f0 ... f_last (HWC).
RESNET = [(32, 32, 16), (32, 32, 16), (16, 16, 32), (8, 8, 64), (64,)]
WIDE = [(32, 32, 32), (32, 32, 64), (16, 16, 128), (8, 8, 256), (256,)]
WRN_1 = [(32, 32, 16), (32, 32, 16), (16, 16, 32), (8, 8, 64), (64,)]
WRN_2 = [(32, 32, 16), (32, 32, 32), (16, 16, 64), (8, 8, 128), (128,)]
VGG = [
  (32, 32, 64),
  (16, 16, 128),
  (8, 8, 256),
  (4, 4, 512),
  (4, 4, 512),
  (512,),
]
PUBLISHED = {
  "resnet8": (83_892, RESNET),
  "resnet14": (181_108, RESNET),
  "resnet20": (278_324, RESNET),
  "resnet32": (472_756, RESNET),
  "resnet44": (667_188, RESNET),
  "resnet56": (861_620, RESNET),
  "resnet110": (1_736_564, RESNET),
  "resnet8x4": (1_233_540, WIDE),
  "resnet32x4": (7_433_860, WIDE),
  "wrn_16_1": (180_916, WRN_1),
  "wrn_16_2": (703_284, WRN_2),
  "wrn_40_1": (569_780, WRN_1),
  "wrn_40_2": (2_255_156, WRN_2),
  "vgg8": (3_965_028, VGG),
  "vgg13": (9_462_180, VGG),
  "mobilenet_v2": (
    812_836,
    [(16, 16, 16), (16, 16, 12), (8, 8, 16), (4, 4, 48), (2, 2, 160), (1280,)],
  ),
  "shufflenet_v1": (
    949_258,
    [(32, 32, 24), (16, 16, 240), (8, 8, 480), (4, 4, 960), (960,)],
  ),
  "shufflenet_v2": (
    1_355_528,
    [(32, 32, 24), (16, 16, 116), (8, 8, 232), (4, 4, 464), (1024,)],
  ),
  "resnet50_cifar": (
    23_705_252,
    [
      (32, 32, 64),
      (32, 32, 256),
      (16, 16, 512),
      (8, 8, 1024),
      (4, 4, 2048),
      (2048,),
    ],
  ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_taps_are_those_of_the_benchmark(name):
  count, shapes = PUBLISHED[name]
  module = models.build(name, num_classes=100)
  x = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  variables = jax.eval_shape(
    lambda x: models.init(module, jax.random.key(0), x), x
  )
  assert models.parameter_count(variables) == count
  taps = models.tap_shapes(module, (32, 32, 3))
  assert [taps[f"f{i}"] for i in range(len(shapes))] == shapes
  for name_before, shape in taps.items():
    if name_before.endswith("_pre"):
      assert shape == taps[name_before.removesuffix("_pre")]


FAMILIES = {
  "mlp": {"widths": (8, 8)},
  "cnn": {"widths": (4, 4), "hidden": 8},
  "resnet": {"depth": 8, "widths": (4, 4, 8, 8)},
  "wrn": {"depth": 10, "width": 1},
}


@pytest.mark.parametrize(
  ("name", "dtype"),
  [(name, jnp.float32) for name in FAMILIES]
  + [(name, jnp.bfloat16) for name in FAMILIES]
  + [("mobilenet_v2", jnp.float32), ("shufflenet_v2", jnp.float32)],
)
def test_padding_rows_influence_nothing(name, dtype):
  options = FAMILIES.get(name, {})
  module = models.build(name, num_classes=3, dtype=dtype, **options)
  x = jax.random.uniform(jax.random.key(1), (4, 9, 9, 1))
  variables = models.init(module, jax.random.key(0), x[:1])
  mask = jnp.array([True, True, True, False])

  @jax.jit
  def forward(x):
    return models.forward(module, variables, x, train=True, mask=mask)

  outputs, stats = forward(x)
  other, other_stats = forward(x.at[3].set(7.0))
  assert outputs["logits"].dtype == jnp.float32
  assert outputs["logits"].shape == (4, 3)
  np.testing.assert_array_equal(outputs["logits"][:3], other["logits"][:3])
  jax.tree.map(np.testing.assert_array_equal, stats, other_stats)


@pytest.mark.parametrize("name", ["resnet", "cnn"])
def test_every_parameter_gets_a_gradient(name):
  module = models.build(name, num_classes=3, **FAMILIES[name])
  x = jax.random.uniform(jax.random.key(1), (6, 8, 8, 1))
  variables = models.init(module, jax.random.key(0), x[:1])

  @jax.jit
  def loss(params):
    outputs, _ = models.forward(
      module, variables | {"params": params}, x, train=True
    )
    return jnp.sum(outputs["logits"] ** 2)

  for gradient in jax.tree.leaves(jax.jit(jax.grad(loss))(variables["params"])):
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


class Bare(nn.Module):
  """Returns logits; knows neither train nor mask."""

  num_classes: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.num_classes)(x)


class Pair(nn.Module):
  """Returns (logits, taps) and has dropout by flax's own convention."""

  num_classes: int

  @nn.compact
  def __call__(self, x, deterministic=True):
    hidden = nn.Dropout(0.5, deterministic=deterministic)(x)
    return nn.Dense(self.num_classes)(hidden), {"hidden": hidden}


class Normed(nn.Module):
  """Returns a dictionary and has flax's BatchNorm."""

  num_classes: int

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.BatchNorm(use_running_average=not train)(x)
    return {"logits": nn.Dense(self.num_classes)(x)}


class Wrong(nn.Module):
  """Returns what nobody can use."""

  num_classes: int

  @nn.compact
  def __call__(self, x):
    return [nn.Dense(self.num_classes)(x)]


@pytest.mark.parametrize(
  ("name", "taps"), [("Bare", set()), ("Pair", {"hidden"}), ("Normed", set())]
)
def test_a_users_module_is_called_by_its_own_convention(name, taps):
  module = models.build(f"{__name__}.{name}", num_classes=3)
  x = jnp.ones((4, 5))
  variables = models.init(module, jax.random.key(0), x)
  outputs, stats = models.forward(
    module,
    variables,
    x,
    train=True,
    mask=jnp.ones(4, bool),
    rngs={"dropout": jax.random.key(1)},
  )
  assert outputs["logits"].shape == (4, 3) and set(outputs["taps"]) == taps
  assert bool(stats) == (name == "Normed")
  if name == "Pair":
    hidden = outputs["taps"]["hidden"]
    assert set(np.unique(hidden)) == {0.0, 2.0}  # dropout was at work
  if name == "Normed":
    before = variables["batch_stats"]["BatchNorm_0"]["mean"]
    assert (stats["BatchNorm_0"]["mean"] != before).all()


def test_an_output_that_nobody_can_use_is_refused():
  module = models.build(f"{__name__}.Wrong", num_classes=3)
  variables = models.init(module, jax.random.key(0), jnp.ones((1, 5)))
  with pytest.raises(UserError, match="returns a list, expected logits"):
    models.forward(module, variables, jnp.ones((1, 5)))


@pytest.mark.parametrize(
  ("name", "options", "words"),
  [
    ("resnet21", {}, "'resnet20'|'resnet32'|'resnet110'"),
    ("nowhere.Net", {}, "cannot be imported"),
    ("mlp", {"width": 3}, "did you mean 'widths'"),
    ("resnet", {"depth": 21}, "expected 6n [+] 2"),
    ("resnet20", {"breadth": 2}, "breadth"),
    ("math.sqrt", {}, "config.model"),
  ],
)
def test_what_cannot_be_built_ends_in_a_sentence(name, options, words):
  with pytest.raises(UserError, match=words):
    models.build(name, num_classes=10, **options)
