"""What scores ask of a model, and what they make of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import difficulty, models, step
from kdcl_jax.difficulty import requirements

GENERATOR = np.random.default_rng(3)
BATCH = {
  "image": GENERATOR.integers(0, 255, (9, 8, 8, 1)).astype(np.uint8),
  "label": GENERATOR.integers(0, 4, 9).astype(np.int32),
  "weight": np.array([1] * 7 + [0] * 2, np.float32),
  "id": np.arange(9, dtype=np.int32),
}


@pytest.fixture(scope="module")
def normalised():
  """A network with batch normalisation that has seen some batches."""
  module = models.build("resnet", num_classes=4, depth=8, widths=(4, 4, 6, 8))
  forward = step.forward_of(module, "image", (0.4,), (0.3,))
  variables = models.init(module, jax.random.key(1), np.zeros((1, 8, 8, 1)))
  assert variables["batch_stats"]
  for _ in range(3):
    _, stats = forward(variables, BATCH, train=True)
    variables = variables | {"batch_stats": stats}
  return forward, variables


def loop(forward, variables):
  """GraNd by a gradient for each record."""
  rest = {"batch_stats": variables["batch_stats"]}

  def loss(params, i):
    one = {name: row[i : i + 1] for name, row in BATCH.items()}
    logits = forward({"params": params} | rest, one)[0]["logits"][0]
    return -jax.nn.log_softmax(logits)[BATCH["label"][i]]

  gradients = [jax.grad(loss)(variables["params"], i) for i in range(9)]
  square = lambda g: sum(np.sum(np.square(x)) for x in jax.tree.leaves(g))
  return np.sqrt([square(g) for g in gradients])


@pytest.mark.parametrize("bound", [1, 2000, 2**26])
def test_grand_is_a_gradient_for_each_record_in_evaluation_mode(
  normalised, bound, monkeypatch
):
  forward, variables = normalised
  monkeypatch.setattr(requirements, "_GRADIENTS", bound)
  body = step.record_body(forward, {"grand": difficulty.grand_of_model})
  have = jax.jit(body)(variables, BATCH)["grand"]
  np.testing.assert_allclose(have, loop(forward, variables), rtol=1e-5)


def test_the_gradients_in_memory_are_bounded(normalised, monkeypatch):
  forward, variables = normalised
  size = models.parameter_count(variables)
  monkeypatch.setattr(requirements, "_GRADIENTS", 3 * size + 1)
  kernel = max(jax.tree.leaves(variables["params"]), key=lambda x: x.size)
  shape = lambda n: f"f32[{','.join(map(str, (n, *kernel.shape)))}]"
  text = str(
    jax.make_jaxpr(lambda v, b: difficulty.grand_of_model(forward, v, b))(
      variables, BATCH
    )
  )
  assert shape(3) in text and shape(9) not in text


def test_layers_are_input_taps_in_their_sequence_and_softmax():
  rows = lambda *shape: GENERATOR.standard_normal((5, *shape)).astype("f4")
  outputs = {
    "inputs": rows(4, 4, 1),
    "taps": {"z": rows(7), "a": rows(2, 3)},
    "logits": rows(3),
  }
  layers = difficulty.layers_of(outputs)
  assert [layer.shape[1] for layer in layers] == [16, 7, 6, 3]
  np.testing.assert_array_equal(layers[0], outputs["inputs"].reshape(5, 16))
  np.testing.assert_array_equal(layers[1], outputs["taps"]["z"])
  np.testing.assert_allclose(np.sum(layers[3], -1), 1, rtol=1e-6)


@pytest.mark.parametrize("size", [3000, 5000])
def test_a_wide_layer_is_bounded_and_keeps_its_distances(size):
  # Records of other brightness: sums without signs would add it up.
  rows = GENERATOR.standard_normal((12, size)).astype(np.float32)
  rows += np.arange(12, dtype=np.float32)[:, None]
  outputs = {"inputs": rows, "taps": {}, "logits": np.zeros((12, 2))}
  small = np.asarray(difficulty.layers_of(outputs)[0])
  assert small.shape == (12, 1024)
  square = lambda x: np.square(x[:, None] - x[None]).sum(-1)
  off = ~np.eye(12, dtype=bool)
  np.testing.assert_allclose(
    square(small)[off] / square(rows)[off], 1, atol=0.3
  )
  # Batch by batch the same as together.
  again = difficulty.layers_of(
    {k: v[3:5] for k, v in outputs.items() if k != "taps"} | {"taps": {}}
  )
  np.testing.assert_allclose(again[0], small[3:5], rtol=1e-6)


def test_depth_of_a_model_is_prediction_depth_without_itself():
  support = [GENERATOR.standard_normal((40, d)).astype("f4") for d in (3, 6)]
  labels = GENERATOR.integers(0, 3, 40)
  query = [s[5:15] + np.float32(0.01) for s in support]
  index = np.arange(5, 15)
  logits = GENERATOR.standard_normal((10, 3)).astype("f4")
  given = dict(k=30, num_classes=3)
  plain = lambda **more: difficulty.prediction_depth(
    support, labels, query, logits.argmax(-1), **(given | more)
  )
  depth = lambda at, **more: difficulty.depth_of_model(
    logits, query, support, labels, at, **more
  )
  np.testing.assert_array_equal(depth(index), plain(support_index=index))
  np.testing.assert_array_equal(depth(index * 0 - 1, k=1), plain(k=1))
  assert not np.array_equal(depth(index, k=1), depth(index * 0 - 1, k=1))
  few = difficulty.depth_of_model(
    logits, query, [s[:4] for s in support], labels[:4], index * 0 - 1
  )
  assert few.shape == (10,)  # 3 neighbours, in place of 30


def test_what_is_not_there_cannot_be_needed():
  with pytest.raises(ValueError, match="'weights' is not there, expected"):
    difficulty.needs("logits", "weights")
  with pytest.raises(ValueError, match="'batch' is not there beside"):
    difficulty.needs("batch", "support_layers")
  for score in difficulty.SCORES.values():
    assert difficulty.needs_of(score) == ("logits", "labels")
  assert not set(difficulty.SCORES) & set(difficulty.MODEL_SCORES)


def test_a_score_of_ones_own_takes_what_it_declares(normalised):
  forward, variables = normalised

  @difficulty.needs("labels", "outputs")
  def own(labels, outputs):
    return labels + jnp.max(outputs["taps"]["f1"], (1, 2, 3))

  have = step.record_body(forward, {"own": own})(variables, BATCH)["own"]
  taps = forward(variables, BATCH)[0]["taps"]
  want = BATCH["label"] + np.asarray(taps["f1"]).max((1, 2, 3))
  np.testing.assert_allclose(have, want, rtol=1e-6)
