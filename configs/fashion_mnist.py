r"""Fashion-MNIST through tfds: a convolutional teacher into a tiny student.

  python -m kdcl_jax.prepare fashion_mnist --from=DIR     (without a network)
  python -m kdcl_jax.main --config=configs/fashion_mnist.py \
    --workdir=runs/fashion_mnist

54,000 training, 6,000 validation and 10,000 test records, true labels: a case
in which nothing is gained. Expect 87.9, 86.4, 87.7 and 86.8 % (baseline,
curriculum, kd, student; five seeds, each within 0.4) and teachers of 90.1
(plain) and 88.0 %. A minute and a half for one seed on two cores.

Variant `:noisy`: 5,000 training and 1,000 validation records of which 40 % have
wrong labels, the 2 x 2 of `configs/digits.py`. Expect about 75, 81, 76 and 80 %
(baseline, curriculum, kd, student); a minute for a seed.

Variant `:mobile`: as 32 x 32 pixels in three channels, a ResNet into half a
MobileNetV2, which `python -m kdcl_jax.export` then makes ready for a phone.
8,000 training records and two epochs: 82.6, 77.0 and 76.1 % (teacher, baseline,
student; one seed); 20 minutes on two busy cores.
"""

from ml_collections import ConfigDict

from kdcl_jax import config as kdcl

VARIANTS = ("", "noisy", "mobile")

TEACHER = dict(name="cnn", widths=(32, 64), hidden=128)
STUDENT = dict(name="cnn", widths=(6, 12), hidden=24)
DISTILLED = dict(
  cross_entropy=dict(coefficient=0.1),
  kd=dict(coefficient=0.9, temperature=2.0),
)


def get_config(variant: str = "") -> ConfigDict:
  """The config of a variant."""
  if variant not in VARIANTS:
    raise ValueError(f"no variant {variant!r}; valid are {VARIANTS}")
  if variant == "mobile":
    return _mobile()
  noisy = variant == "noisy"

  def stage(model: dict, rate: float, **fields: object) -> ConfigDict:
    return kdcl.stage(
      model=model,
      batch_size=64 if noisy else 128,
      optimizer=dict(name="adam", learning_rate=rate),
      **fields,
    )

  adaptive = dict(
    order="curriculum",
    difficulty=dict(source="scorer", score="loss"),
    pacing=dict(name="linear", start=0.3, reach=0.5),
    lessons=27 if noisy else 20,
    freeze=dict(on=True),
  )
  long = dict(steps=3000) if noisy else dict(epochs=5.0)
  rest = dict(steps=2700) if noisy else dict(epochs=4.5)
  short = dict(steps=2000) if noisy else dict(epochs=5.0)
  distilled = lambda teacher: stage(
    STUDENT, 3e-3, teachers=(teacher,), objective=DISTILLED, **short
  )
  stages = dict(
    teacher_plain=stage(TEACHER, 1e-3, **long),
    teacher=stage(TEACHER, 1e-3, curriculum=adaptive, **rest),
    baseline=stage(STUDENT, 3e-3, **short),
    curriculum=stage(STUDENT, 3e-3, curriculum=adaptive, **short),
    kd=distilled("teacher_plain"),
    student=distilled("teacher"),
  )
  data = dict(source="tfds:fashion_mnist", mean=(0.286,), std=(0.353,))
  if noisy:
    data |= dict(
      train_size=6000,
      validation=1000,
      label_noise=dict(kind="symmetric", rate=0.4, validation=True),
    )
  else:
    data |= dict(validation=6000)
  return kdcl.run(
    name="fashion_mnist" + (":noisy" if noisy else ""),
    stages=tuple(stages),
    data=data,
    scorer=kdcl.scorer(
      model=TEACHER,
      batch_size=64 if noisy else 128,
      folds=2,
      optimizer=dict(name="adam", learning_rate=1e-3),
      **(dict(steps=150) if noisy else dict(epochs=0.5)),
    ),
    **stages,
  )


def _mobile() -> ConfigDict:
  """A student for a phone: MobileNetV2 with half the channels."""
  adam = dict(name="adam", learning_rate=2e-3)
  stage = lambda **fields: kdcl.stage(epochs=2.0, optimizer=adam, **fields)
  student = dict(name="mobilenet_v2", width=0.5)
  stages = dict(
    teacher=stage(model=dict(name="resnet14")),
    baseline=stage(model=student),
    student=stage(model=student, teachers=("teacher",), objective=DISTILLED),
  )
  return kdcl.run(
    name="fashion_mnist:mobile",
    stages=tuple(stages),
    data=dict(
      source="tfds:fashion_mnist",
      image_size=32,
      channels=3,
      train_size=9000,
      validation=1000,
      mean=(0.286,),
      std=(0.353,),
    ),
    **stages,
  )
