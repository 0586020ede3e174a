"""Our models beside those of torchvision and timm, as they are installed."""

import json

import numpy as np
import pytest
import torch_references as references
from ported_models import CASES, close, goldens, ours

pytest.importorskip("timm", reason="the extra `references` is not installed")


@pytest.mark.parametrize("case", references.REDUCED)
def test_the_goldens_are_what_torch_computes_today(case):
  today = references.golden(case)
  kept = {k: v for k, v in goldens().items() if k.startswith(f"{case}/")}
  assert today.keys() == kept.keys()
  for name, want in kept.items():
    if name.endswith("/shapes"):
      assert json.loads(str(today[name])) == json.loads(str(want))
    else:
      np.testing.assert_allclose(today[name], want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("case", references.PUBLISHED)
def test_models_as_published_are_torchs(case, train):
  make, taps, size, *_ = CASES[case]
  model = make()
  arrays = references.seeded(references.shapes_of(model))
  want, wanted_statistics = references.outputs_of(
    model, taps, references.images(size), train
  )
  outputs, statistics = ours(case, arrays, train)
  for name, array in want.items():
    close(outputs[name], array)
  assert statistics.keys() == wanted_statistics.keys()
  for name, array in wanted_statistics.items():
    close(statistics[name], array)
