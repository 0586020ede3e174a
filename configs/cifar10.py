r"""CIFAR-10 with the recipe of `configs/cifar100.py`, a pair per variant.

  python -m kdcl_jax.main --config=configs/cifar10.py:resnet56-resnet20 \
    --workdir=runs/cifar10

He et al., "Deep residual learning for image recognition", 2016,
arXiv:1512.03385, table 6, report 93.03 % for ResNet-56 and 91.25 % for
ResNet-20 (another schedule, of 64,000 steps at batch 128). Needs the data of
tfds `cifar10`. Not run by us at this size.
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(variant: str = "resnet56-resnet20") -> ConfigDict:
  """The config of a pair `TEACHER-STUDENT` of model names."""
  recipe = runpy.run_path(str(pathlib.Path(__file__).with_name("cifar100.py")))
  config = recipe["get_config"](variant, classes=10)
  config.data.mean = (0.4914, 0.4822, 0.4465)
  config.data.std = (0.2470, 0.2435, 0.2616)
  return config
