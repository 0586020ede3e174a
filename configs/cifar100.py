r"""CIFAR-100 by the recipe of the CRD benchmark, a pair of models per variant.

  python -m kdcl_jax.main --config=configs/cifar100.py:resnet56-resnet20 \
    --workdir=runs/cifar100

Reproduces the protocol of Tian, Krishnan and Isola, "Contrastive representation
distillation", 2020, arXiv:1910.10699: SGD with momentum 0.9, weight decay 5e-4
on all parameters, batch 64, 240 epochs, learning rate 0.05 (0.01 for MobileNet
and ShuffleNet) divided by 10 after epochs 150, 180 and 210, pad-crop and flip,
accuracy of the last epoch. KD is 0.1 CE + 0.9 T^2 KL at T = 4.

Published top-1 (teacher, student alone, student with KD): resnet56-resnet20
72.34, 69.06, 70.66; resnet110-resnet32 74.31, 71.14, 73.08;
resnet32x4-resnet8x4 79.42, 72.50, 73.33; wrn_40_2-wrn_16_2 75.61, 73.26, 74.92;
vgg13-vgg8 74.64, 70.36, 72.98; resnet32x4-shufflenet_v2 79.42, 71.82, 74.45.
Hours, not minutes: one seed of resnet56-resnet20 is about 3 x 240 epochs.
Needs the data of tfds `cifar100`. Not run by us at this size.
"""

from ml_collections import ConfigDict

from kdcl_jax import config as kdcl

SMALL_RATE = ("mobilenet_v2", "shufflenet_v1", "shufflenet_v2")


def get_config(
  variant: str = "resnet56-resnet20", classes: int = 100
) -> ConfigDict:
  """The config of a pair `TEACHER-STUDENT` of model names."""
  names = variant.split("-")
  if len(names) != 2:
    raise ValueError(
      f"no variant {variant!r}; valid is a pair like resnet56-resnet20"
    )

  def stage(model: str, **fields: object) -> ConfigDict:
    return kdcl.stage(
      model=dict(name=model),
      epochs=240.0,
      batch_size=64,
      optimizer=dict(
        name="sgd",
        learning_rate=0.01 if model in SMALL_RATE else 0.05,
        momentum=0.9,
        weight_decay=5e-4,
        decay_all=True,
        schedule=dict(
          name="multistep",
          boundaries=(150 / 240, 180 / 240, 210 / 240),
          factor=0.1,
        ),
      ),
      **fields,
    )

  teacher, student = names
  return kdcl.run(
    name=f"cifar{classes}:{variant}",
    data=dict(
      source=f"tfds:cifar{classes}",
      validation=1000,
      augment=(dict(name="pad_crop", pad=4), dict(name="flip")),
      mean=(0.5071, 0.4867, 0.4408),
      std=(0.2675, 0.2565, 0.2761),
    ),
    teacher=stage(teacher),
    baseline=stage(student),
    student=stage(
      student,
      teachers=("teacher",),
      objective=dict(
        cross_entropy=dict(coefficient=0.1),
        kd=dict(coefficient=0.9, temperature=4.0),
      ),
    ),
  )
