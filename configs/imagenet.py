r"""ImageNet: a ResNet-50 on a curriculum teaches a MobileNetV2, easy to hard.

  python -m kdcl_jax.main --config=configs/imagenet.py \
    --workdir=runs/imagenet --config.data.data_dir=DIR

Three stages, as on a TPU VM or a GPU host: the teacher on its own curriculum
(difficulty by a short ResNet-18 that has not seen the record), a baseline, and
the student by KD with the teacher's loss as its difficulty. SGD, batch 512,
learning rate 0.2 divided by 10 after epochs 30, 60 and 90 of 100, weight decay
1e-4, KD at T = 1 with equal weights: the recipe of mdistiller. DIR has tfds
`imagenet2012` in the ArrayRecord format.

A variant is words with commas between. A pair `resnet50-mobilenet_v2` (the
default), `resnet50-mobilenet_v1` or `resnet34-resnet18`; or `vit`: a DeiT-Ti
with a distillation token (hard labels; 300 epochs, of DeiT's augmentations only
crop, flip and mixup); or `patient`: no labels, the same crop and mixup to both,
1200 epochs (Beyer et al., 2022, arXiv:2106.05237; there without BatchNorm).
Further words: `dist` (DIST for KD), `pretrained` (the teacher by the weights of
torchvision), `progressive` (detail grows from 128 to 224 pixels over the first
60 %), `folder` (data.path with train/CLASS and val/CLASS).

Published top-1, none of it with a curriculum: resnet34-resnet18 teacher 73.31,
alone 69.75, KD 71.03 (mdistiller), DIST 72.07; resnet50-mobilenet_v1 76.16,
68.87, KD 70.50; DIST 73.24 over 70.13; MobileNetV2 alone 72.0, and in a strong
recipe 73.6, KD 71.7, DIST 74.4 (teacher of 80.1); DeiT-Ti 72.2, distilled 74.5
(by a RegNet); patient 82.8 for a ResNet-50 (by a ResNet-152x2 of 83.0). On
clean labels expect nothing of the curriculum itself.

By its FLOPs the default takes 2 hours on 8 A100 (a third of their peak); it
reads 400 million pictures, 150 hours of one core, and one process reads some
8,000 a second (docs/images.md): start a process for each GPU. Not run by us at
this size.
"""

from ml_collections import ConfigDict

from kdcl_jax import config as kdcl

STUDENTS = {  # teacher-student -> the student's model
  "resnet50-mobilenet_v2": "mobilenet_v2_224",
  "resnet50-mobilenet_v1": "mobilenet_v1",
  "resnet34-resnet18": "resnet18",
  "vit": "deit_ti16",
  "patient": "mobilenet_v2_224",
}
FURTHER = ("dist", "pretrained", "progressive", "folder")
LINEAR = dict(name="linear", start=0.3, reach=0.5)
OBJECTIVES = {
  "kd": dict(
    cross_entropy=dict(coefficient=0.5),
    kd=dict(coefficient=0.5, temperature=1.0),
  ),
  "dist": dict(cross_entropy={}, dist=dict(coefficient=2.0)),
  "vit": dict(
    cross_entropy=dict(coefficient=0.5),
    hard=dict(coefficient=0.5, student_logits="distillation_logits"),
  ),
  "patient": dict(kd=dict(coefficient=1.0, temperature=1.0)),
}


def course(source: str) -> dict:
  """Easy to hard over the first half, unless validation falls."""
  return dict(
    order="curriculum",
    difficulty=dict(source=source, score="loss"),
    pacing=LINEAR,
    lessons=100,
    freeze=dict(on=True),
  )


def get_config(variant: str = "resnet50-mobilenet_v2") -> ConfigDict:
  """The config of a variant."""
  words = variant.split(",")
  kind = next((w for w in words if w in STUDENTS), "resnet50-mobilenet_v2")
  long = kind in ("vit", "patient")
  teacher = "resnet50" if long else kind.split("-")[0]
  for word in words:
    if word not in (kind, *FURTHER[long:]):  # they have losses of their own
      raise ValueError(
        f"no variant {word!r}; valid is one of {[*STUDENTS]}, and {FURTHER}"
      )

  def stage(model: str, **fields) -> ConfigDict:
    steps = dict(name="multistep", boundaries=(0.3, 0.6, 0.9), factor=0.1)
    sgd = dict(name="sgd", learning_rate=0.2, momentum=0.9, weight_decay=1e-4)
    recipe = dict(
      epochs=100.0,
      batch_size=512,
      precision="bfloat16",
      optimizer=sgd | dict(decay_all=True, schedule=steps),
    )
    return kdcl.stage(model=dict(name=model), **recipe | fields)

  adam = lambda rate, decay, warmup: dict(
    name="adamw",
    learning_rate=rate,
    weight_decay=decay,
    schedule=dict(name="cosine", warmup=warmup),
  )
  recipe = dict(curriculum=course("teacher"))
  if kind == "vit":
    recipe |= dict(epochs=300.0, batch_size=1024)
    recipe |= dict(optimizer=adam(1e-3, 0.05, 5 / 300))
  if kind == "patient":  # their decay of 3e-4 is not times the learning rate
    recipe = dict(epochs=1200.0, batch_size=4096)
    recipe |= dict(optimizer=adam(0.03, 0.01, 0.014) | dict(clip=1.0))
  alone = {name: recipe[name] for name in recipe if name != "curriculum"}
  taught = stage(teacher, curriculum=course("scorer"))
  if "pretrained" in words:
    taught = stage(teacher, weights=f"timm:{teacher}.tv_in1k", epochs=0.0)
  augment = [dict(name="random_resized_crop"), dict(name="flip")]
  if "progressive" in words:
    size = dict(start=128 / 224, end=1.0, reach=0.6)
    augment += [dict(name="resolution", size=size)]
  if kind == "patient":
    augment[0] |= dict(smallest=0.05)
  if long:
    augment += [dict(name="mixup", alpha=1.0 if kind == "patient" else 0.8)]
  source = dict(
    source="tfds:imagenet2012", options=dict(test_split="validation")
  )
  objective = kind if long else "kd"
  return kdcl.run(
    name=f"imagenet:{variant}",
    data=(dict(source="folder") if "folder" in words else source)
    | dict(
      validation=10_000,
      image_size=224,
      channels=3,
      crop=0.875,
      augment=tuple(augment),
      mean=(0.485, 0.456, 0.406),
      std=(0.229, 0.224, 0.225),
    ),
    scorer=stage("resnet18", epochs=10.0),
    teacher=taught,
    baseline=stage("vit_ti16" if kind == "vit" else STUDENTS[kind], **alone),
    student=stage(
      STUDENTS[kind],
      teachers=("teacher",),
      objective=OBJECTIVES["dist" if "dist" in words else objective],
      **recipe,
    ),
    log_steps=100,
    checkpoint_steps=2500,
  )
