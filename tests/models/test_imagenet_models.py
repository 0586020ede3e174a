"""Models for large images: sizes as published, any input, masks, two heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdcl_jax import models, parallel
from kdcl_jax.models import mobilenet, resnet, vit

PUBLISHED = {
  "resnet18": (11_689_512, [64, 64, 128, 256, 512, 512]),
  "resnet34": (21_797_672, [64, 64, 128, 256, 512, 512]),
  "resnet50": (25_557_032, [64, 256, 512, 1024, 2048, 2048]),
  "mobilenet_v1": (4_231_976, [32, 128, 256, 512, 1024, 1024]),
  "mobilenet_v1_relu6": (4_231_976, [32, 128, 256, 512, 1024, 1024]),
  "mobilenet_v2_224": (3_504_872, [32, 24, 32, 96, 320, 1280]),
  "vit_ti16": (5_717_416, 192),
  "vit_s16": (22_050_664, 384),
  "vit_b16": (86_567_656, 768),
  "deit_ti16": (5_910_800, 192),
  "deit_s16": (22_436_432, 384),
  "deit_b16": (87_338_192, 768),
}


def initial(module, shape):
  """The shapes of a module's initial variables."""
  x = jax.ShapeDtypeStruct((1, *shape), np.float32)
  return jax.eval_shape(lambda x: models.init(module, jax.random.key(0), x), x)


def drawn(module, shape):
  """Variables of a module's shapes, without compiling how it draws its own."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    if path[-1].key in ("scale", "var"):
      values = rng.uniform(0.5, 1.5, leaf.shape)
    else:
      values = rng.normal(size=leaf.shape)
      values *= np.prod(leaf.shape[:-1], initial=1.0) ** -0.5
    return jnp.asarray(values, jnp.float32)

  return jax.tree.map_with_path(draw, initial(module, shape))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_taps_are_as_published(name):
  count, widths = PUBLISHED[name]
  module = models.build(name, num_classes=1000)
  assert models.parameter_count(initial(module, (224, 224, 3))) == count
  taps = models.tap_shapes(module, (224, 224, 3))
  if isinstance(widths, list):  # of the stem at stride 2 ... stride 32, pooled
    sides = [(112, 112), (56, 56), (28, 28), (14, 14), (7, 7), ()]
    wanted = [(*s, width) for s, width in zip(sides, widths, strict=True)]
    assert [taps[f"f{i}"] for i in range(6)] == wanted
    before = {n: s for n, s in taps.items() if n.endswith("_pre")}
    assert len(before) == (0 if name == "mobilenet_v2_224" else 4)
    for tap, shape in before.items():
      assert shape == taps[tap.removesuffix("_pre")]
  else:
    length = 196 + (2 if "deit" in name else 1)
    assert taps["h0"] == taps["h12"] == (length, widths)
    assert taps["a12"] == (widths // 64, length, length)
    assert taps["pooled"] == (widths,)


SMALL = {
  "resnet": functools.partial(
    resnet.ResNet, blocks=(1, 1), widths=(4, 4, 6), large=True
  ),
  "mobilenet_v1": functools.partial(
    models.MODELS["mobilenet_v1"], width=0.1, relu6=True
  ),
  "mobilenet_v2": functools.partial(
    models.MODELS["mobilenet_v2_224"], width=0.1, dropout=0.0
  ),
}


def example(name, dtype=jnp.float32, rows=4, **options):
  """A small module, its variables and odd images."""
  module = SMALL[name](num_classes=3, dtype=dtype, **options)
  x = jax.random.normal(jax.random.key(1), (rows, 45, 37, 3))
  return module, drawn(module, x.shape[1:]), x


@pytest.mark.parametrize("name", SMALL)
def test_two_devices_and_other_padding_give_the_same_logits_and_statistics(
  name,
):
  whole, variables, x = example(name)
  spread, _, _ = example(name, axis_name="data")
  mask = jnp.array([True, True, True, False])

  def forward(module, x, mask):
    outputs, stats = models.forward(module, variables, x, train=True, mask=mask)
    return outputs["logits"], stats

  logits, want = jax.jit(functools.partial(forward, whole))(x, mask)
  two = jax.shard_map(
    functools.partial(forward, spread),
    mesh=parallel.create("shard_map", 2).mesh,
    in_specs=(P("data"), P("data")),
    out_specs=(P("data"), P()),
  )
  spread_logits, got = jax.jit(two)(x.at[3].set(7.0), mask)
  np.testing.assert_allclose(spread_logits[:3], logits[:3], atol=2e-3)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    got,
    want,
  )


@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_finite_in_bfloat16(name):
  module, variables, x = example(name, jnp.bfloat16, rows=2)

  @jax.jit
  def evaluated(params):
    def loss(params):
      outputs, _ = models.forward(
        module, variables | {"params": params}, x, train=True
      )
      return jnp.sum(outputs["logits"] ** 2), outputs

    return jax.grad(loss, has_aux=True)(params)

  gradients, outputs = evaluated(variables["params"])
  assert outputs["logits"].dtype == jnp.float32
  assert outputs["taps"]["f1"].dtype == jnp.bfloat16
  for path, gradient in jax.tree.leaves_with_path(gradients):
    assert gradient.dtype == jnp.float32, path
    assert np.isfinite(gradient).all(), path
  head = gradients["Classifier_0"]["Dense_0"]["Dense_0"]["kernel"]
  stem = gradients["Conv_0"]["Conv_0"]["kernel"]
  assert np.abs(head).max() > 0 and np.abs(stem).max() > 0


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("side", [1, 31, 160])
def test_one_set_of_variables_takes_images_of_any_size(name, side):
  module, variables, _ = example(name)
  x = jax.ShapeDtypeStruct((2, side, side + 1, 3), np.float32)
  outputs, _ = jax.eval_shape(lambda x: models.forward(module, variables, x), x)
  assert outputs["logits"].shape == (2, 3)
  assert outputs["taps"]["f0"].shape[1:3] == (-(-side // 2), side // 2 + 1)


@pytest.mark.parametrize(("strides", "share"), [(1, 1.0), (2, 0.0)])
def test_a_block_with_a_stride_has_no_shortcut_on_one_position_either(
  strides, share
):
  block = mobilenet.InvertedResidual(4, None, strides)
  x = jax.random.normal(jax.random.key(1), (2, 1, 1, 4))
  variables = block.init(jax.random.key(0), x, False, None)
  nothing = jax.tree.map(jnp.zeros_like, variables["params"])
  y = block.apply(variables | {"params": nothing}, x, False, None)
  np.testing.assert_array_equal(y, share * x)


def test_dropout_is_at_work_in_training_alone():
  module = models.build("mobilenet_v2_224", num_classes=3, width=0.1)
  assert module.dropout == 0.2
  x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  variables = drawn(module, x.shape[1:])

  @functools.partial(jax.jit, static_argnames="train")
  def logits(key, train):
    outputs, _ = models.forward(
      module, variables, x, train=train, rngs={"dropout": key}
    )
    return outputs["logits"]

  first, second = map(jax.random.key, (2, 3))
  assert (logits(first, True) != logits(second, True)).any()
  np.testing.assert_array_equal(logits(first, False), logits(second, False))


def transformer(dtype=jnp.float32, **options):
  return vit.VisionTransformer(
    num_classes=3, width=12, depth=1, heads=3, dtype=dtype, **options
  )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_deits_logits_are_the_class_heads_in_training_else_of_both(dtype):
  module = transformer(dtype, distilled=True)
  x = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
  variables = drawn(module, x.shape[1:])
  forward = functools.partial(models.forward, module)
  training, _ = jax.jit(functools.partial(forward, train=True))(variables, x)
  evaluation, _ = jax.jit(forward)(variables, x)
  for outputs in (training, evaluation):
    assert outputs["logits"].dtype == jnp.float32
    heads = [outputs["taps"][f"{n}_logits"] for n in ("class", "distillation")]
    assert np.abs(heads[0] - heads[1]).max() > 0.01
    wanted = heads[0] if outputs is training else (heads[0] + heads[1]) / 2
    np.testing.assert_allclose(outputs["logits"], wanted, rtol=1e-6)


@pytest.mark.parametrize("distilled", [False, True])
def test_positions_are_resampled_for_other_sizes(distilled):
  """Linear positions stay linear inside; the tokens' own do not change."""
  module = transformer(distilled=distilled)
  tokens = 2 if distilled else 1
  variables = drawn(module, (128, 128, 3))
  ramp = jnp.arange(8.0).reshape(1, 8, 1, 1) + 10 * jnp.arange(8.0).reshape(
    1, 1, 8, 1
  )
  ramp = jnp.broadcast_to(ramp, (1, 8, 8, 12)).reshape(1, 64, 12)
  own = variables["params"]["position"][:, :tokens]
  params = jax.tree.map(jnp.zeros_like, variables["params"])
  params["position"] = jnp.concatenate([own, ramp], 1)

  forward = jax.jit(functools.partial(models.forward, module))

  def embedded(height, width):
    x = jnp.zeros((1, height, width, 3))
    return forward({"params": params}, x)[0]["taps"]["h0"]

  np.testing.assert_allclose(embedded(128, 128)[:, tokens:], ramp, atol=1e-6)
  larger = embedded(256, 384)
  np.testing.assert_array_equal(larger[:, :tokens], own)
  grid = larger[0, tokens:, 0].reshape(16, 24)
  rows, columns = (np.arange(16) + 0.5) / 2 - 0.5, (np.arange(24) + 0.5) / 3
  want = rows[:, None] + 10 * (columns - 0.5)[None, :]
  np.testing.assert_allclose(grid[4:-4, 6:-6], want[4:-4, 6:-6], atol=1e-3)


def test_positions_on_an_oblong_are_not_resampled():
  module = transformer()
  variables = drawn(module, (32, 48, 3))
  forward = functools.partial(models.forward, module)
  with pytest.raises(ValueError, match="2 x 2 patches .* those of 6"):
    jax.eval_shape(forward, variables, jnp.zeros((1, 32, 32, 3)))
