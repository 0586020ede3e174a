"""Torch's weights in our models give torch's outputs, without torch."""

import jax
import numpy as np
import pytest
import torch_references as references
from ported_models import PREFIX, close, goldens, ours, shapes_of

from kdcl_jax import models
from kdcl_jax.errors import UserError
from kdcl_jax.models import porting


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("case", references.REDUCED)
def test_outputs_taps_and_statistics_are_torchs(case, train):
  mode = f"{case}/{'train' if train else 'eval'}/"
  wanted = {
    name.removeprefix(mode): array
    for name, array in goldens().items()
    if name.startswith(mode)
  }
  arrays = references.seeded(shapes_of(case))
  outputs, statistics = ours(case, arrays, train)
  if train:
    close(
      references.statistics_summary(statistics), wanted.pop("statistics"), 1e-5
    )
  assert len(wanted) > 3 and "logits" in wanted
  for name, want in wanted.items():
    got = outputs[name]
    close(got if name.endswith("logits") else references.summary(got), want)


def test_every_port_is_one_of_a_model_that_there_is():
  assert porting.PORTS.keys() <= models.MODELS.keys()


def test_what_a_port_has_no_use_for_is_told_by_name():
  arrays = references.seeded(shapes_of("basic"))
  extra = {"fc.scale": np.ones(1), "layer1.0.se.bias": np.ones(1)}
  counts = {"layer1.0.bn9.num_batches_tracked": np.array(3)}
  _, unused = porting.variables_from_torch(
    "resnet18", arrays | extra | counts, PREFIX
  )
  assert unused == ["fc.scale", "layer1.0.se.bias"]


def test_names_under_data_parallelism_are_the_same():
  arrays = references.seeded(shapes_of("basic"))
  wrapped = {f"module.{name}": array for name, array in arrays.items()}
  bare, _ = porting.variables_from_torch("resnet18", arrays, PREFIX)
  got, unused = porting.variables_from_torch("resnet18", wrapped, PREFIX)
  assert unused == []
  jax.tree.map(np.testing.assert_array_equal, got, bare)


@pytest.mark.parametrize(
  ("name", "arrays", "words"),
  [
    ("vgg8", {}, f"{PREFIX} .* 'vgg8' cannot take; there are ports for"),
    ("resnet50_cifr", {}, "did you mean 'resnet50_cifar'"),
    ("vit_s16", {"conv1.weight": np.ones((1, 1, 1, 1))}, "holds conv1.weight"),
    ("resnet18", {"fc.weight": np.ones(3)}, r"shape \(3,\), expected 2 axes"),
    ("resnet18", {}, "holds nothing"),
  ],
)
def test_what_cannot_be_ported_ends_in_a_sentence(name, arrays, words):
  with pytest.raises(UserError, match=words):
    porting.variables_from_torch(name, arrays, PREFIX)


def test_weights_for_relu6_are_refused_by_the_model_with_relu():
  arrays = references.seeded(shapes_of("mobilenet_v1_timm"))
  with pytest.raises(UserError, match="the names of mobilenet_v1_relu6"):
    porting.variables_from_torch("mobilenet_v1", arrays, PREFIX)
