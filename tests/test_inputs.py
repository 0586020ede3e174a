"""A model takes pictures at its own size, in its own channels and scale."""

import jax
import numpy as np
import pytest
from PIL import Image

from kdcl_jax import inputs, models, parallel, step
from kdcl_jax.errors import UserError
from kdcl_jax.inputs import Input

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (3, 8, 6, 3), np.uint8)
GREY = RNG.integers(0, 256, (3, 8, 6, 1), np.uint8)
NONE = {"mean": (), "std": (), "size": 0, "channels": "", "interpolation": ""}


def test_no_input_of_its_own_is_the_datas():
  view = Input((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
  want = (COLOURS / 255.0 - (0.1, 0.2, 0.3)) / (0.5, 0.6, 0.7)
  np.testing.assert_allclose(view(COLOURS), want, rtol=1e-5, atol=1e-6)


def test_blue_green_red_turns_the_channels_and_then_standardises():
  view = Input((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), channels="bgr")
  want = (COLOURS[..., ::-1] / 255.0 - (0.1, 0.2, 0.3)) / (0.5, 0.6, 0.7)
  np.testing.assert_allclose(view(COLOURS), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_grey_data_fills_three_channels(channels):
  x = np.asarray(Input(channels=channels)(GREY))
  assert x.shape == (3, 8, 6, 3)
  for channel in range(3):
    np.testing.assert_allclose(x[..., channel], GREY[..., 0] / 255.0, rtol=1e-6)


def test_colours_become_the_grey_that_pillow_makes_of_them():
  x = np.asarray(Input(channels="grey")(COLOURS))
  assert x.shape == (3, 8, 6, 1)
  for picture, grey in zip(COLOURS, x, strict=True):
    want = np.asarray(Image.fromarray(picture).convert("L"))
    np.testing.assert_allclose(255 * grey[..., 0], want, atol=1.0)


@pytest.mark.parametrize("method", inputs.METHODS)
@pytest.mark.parametrize("size", [(16, 16), (5, 4), (12, 3)])
def test_another_size_is_what_pillow_makes_of_a_picture(method, size):
  view = Input(size=size, interpolation=method)
  mild = GREY // 2 + 64  # nothing is cut off after the first axis
  x = np.asarray(view(mild))
  assert x.shape == (3, *size, 1)
  kind = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[method]
  for picture, resized in zip(mild, x, strict=True):
    want = Image.fromarray(picture[..., 0]).resize(size[::-1], kind)
    # Pillow rounds to whole numbers, after each of the two axes.
    np.testing.assert_allclose(255 * resized[..., 0], want, atol=1.6)


def test_floats_are_neither_scaled_nor_cut():
  x = 10.0 * RNG.normal(size=(2, 4, 4, 1)).astype(np.float32)
  y = np.asarray(Input(size=(8, 8), interpolation="bicubic")(x))
  assert y.max() > 1 and y.min() < 0
  np.testing.assert_array_equal(Input()(x), x)


def test_the_config_goes_before_the_weights_and_these_before_the_data():
  data = {"mean": (0.1, 0.2, 0.3), "std": (0.5,)}
  facts = {"mean": [0.4], "size": [7, 9], "channels": "rgb"}
  assert inputs.of(NONE, {}, data) == Input((0.1, 0.2, 0.3), (0.5,))
  view = inputs.of(NONE, facts, data)
  assert view == Input((0.4,), (0.5,), (7, 9), "rgb")
  own = NONE | {"mean": (0.9,), "size": 5, "interpolation": "bicubic"}
  view = inputs.of(own, facts, data)
  assert view == Input((0.9,), (0.5,), (5, 5), "rgb", "bicubic")


def test_weights_that_know_of_no_mean_are_not_given_that_of_the_data():
  data = {"mean": (0.1,), "std": (0.5,)}
  assert inputs.of(NONE, {"mean": [], "std": []}, data) == Input()


def test_the_datas_mean_turns_with_the_channels():
  data = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
  view = inputs.of(NONE | {"channels": "bgr"}, {}, data)
  straight = inputs.of(NONE, {}, data)
  np.testing.assert_allclose(
    view(COLOURS), straight(COLOURS)[..., ::-1], rtol=1e-6
  )


def test_what_is_written_down_is_read_back_the_same():
  view = Input((0.1,), (0.2,), (), "", "bicubic")
  facts = view.facts((8, 6, 3))
  again = inputs.of(NONE, facts, {"mean": (9.0,), "std": (9.0,)})
  assert again == Input((0.1,), (0.2,), (8, 6), "rgb", "bicubic")
  np.testing.assert_array_equal(view(COLOURS), again(COLOURS))


def test_inputs_that_are_no_pictures_have_only_numbers():
  assert Input((0.5,)).facts((7,)) == {"mean": [0.5], "std": []}
  assert Input((0.5,)).facts(()) == {"mean": [0.5], "std": []}


@pytest.mark.parametrize(
  ("view", "shape", "words"),
  [
    (Input(size=(4, 4)), (16,), "x.size is .* no picture"),
    (Input(channels="rgb"), (16, 3), "x.channels is 'rgb'.* no picture"),
    (Input(channels="rgb"), (8, 8, 4), "has 4 channels; expected 1 or 3"),
    (Input((1.0, 2.0)), (8, 8, 3), "x.mean has 2 numbers, expected 3"),
    (
      Input(std=(1.0, 2.0, 3.0), channels="grey"),
      (8, 8, 3),
      "x.std has 3 numbers, expected 1",
    ),
  ],
)
def test_what_does_not_go_with_the_data_is_told(view, shape, words):
  with pytest.raises(UserError, match=words):
    view.check(shape, "x")


@pytest.mark.parametrize("mode", ["jit", "shard_map"])
def test_logits_are_those_of_a_batch_prepared_by_hand(mode):
  module = models.build("resnet8", num_classes=10)
  view = Input((0.3, 0.4, 0.5), (0.2, 0.3, 0.4), (12, 12), "bgr", "bicubic")
  variables = models.init(module, jax.random.key(0), np.zeros((1, 12, 12, 3)))
  forward = step.forward_of(module, "image", *view)
  assert forward == step.forward_of(module, "image", *view)
  assert hash(forward) == hash(step.forward_of(module, "image", *view))
  grey = RNG.integers(0, 256, (16, 8, 8, 1), np.uint8)
  by_hand = jax.image.resize(
    np.repeat(grey, 3, -1).astype(np.float32) / 255, (16, 12, 12, 3), "cubic"
  )
  by_hand = (np.clip(by_hand, 0, 1) - (0.3, 0.4, 0.5)) / (0.2, 0.3, 0.4)
  want = models.forward(module, variables, np.float32(by_hand))[0]["logits"]
  there = parallel.create(mode, devices=8)
  run = there.partition(
    lambda v, b: forward(v, b)[0]["logits"], constants=1, row_outputs=True
  )
  batch = {"image": grey, "weight": np.ones(16, np.float32)}
  got = run(there.put(variables), there.put_batch(batch))
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
