"""Handwritten digits of which 40 % of the labels are wrong, unknown to the run.

  python -m kdcl_jax.main --config=configs/digits.py --workdir=runs/digits

The demonstration: a 2 x 2 of curriculum and distillation on one small student
(1,000 training and 200 validation records, 40 % symmetric label noise in both,
597 clean test records; the teachers get equal numbers of gradient steps, the
scoring included). It shows what each half brings:

                      no teacher     distilled
  no curriculum       baseline       kd       (teacher_plain)
  curriculum          curriculum     student  (teacher)

Expect about 89, 91, 86 and 90 % (baseline, curriculum, kd, student; ten seeds,
each ± 3), and teachers of 69 and 91 %; the README has the intervals. Fifteen
seconds for a seed on two cores.

Variants: `:clean` (true labels; no gain is to be expected), `:chain` (a teacher
assistant between teacher and student), `:two_teachers`.
"""

from ml_collections import ConfigDict

from kdcl_jax import config as kdcl

VARIANTS = ("", "clean", "chain", "two_teachers")

TEACHER = dict(name="mlp", widths=(256, 256))
ASSISTANT = dict(name="mlp", widths=(48,))
STUDENT = dict(name="mlp", widths=(12,))
DISTILLED = dict(
  cross_entropy=dict(coefficient=0.1),
  kd=dict(coefficient=0.9, temperature=2.0),
)


def get_config(variant: str = "") -> ConfigDict:
  """The config of a variant."""
  if variant not in VARIANTS:
    raise ValueError(f"no variant {variant!r}; valid are {VARIANTS}")

  def stage(
    model: dict, steps: int, rate: float, **fields: object
  ) -> ConfigDict:
    optimizer = dict(name="adam", learning_rate=rate)
    return kdcl.stage(
      model=model, steps=steps, batch_size=32, optimizer=optimizer, **fields
    )

  # Grow by a twentieth per lesson; freeze and roll back on a real fall.
  adaptive = dict(
    order="curriculum",
    difficulty=dict(source="scorer", score="loss"),
    pacing=dict(name="linear", start=0.3, reach=0.5),
    lessons=30,
    freeze=dict(on=True),
  )
  stages = dict(
    teacher_plain=stage(TEACHER, 2000, 3e-3),
    teacher=stage(TEACHER, 1600, 3e-3, curriculum=adaptive),
    baseline=stage(STUDENT, 1000, 1e-2),
    curriculum=stage(STUDENT, 1000, 1e-2, curriculum=adaptive),
    kd=stage(
      STUDENT, 1000, 1e-2, teachers=("teacher_plain",), objective=DISTILLED
    ),
    student=stage(
      STUDENT, 1000, 1e-2, teachers=("teacher",), objective=DISTILLED
    ),
  )
  if variant in ("chain", "two_teachers"):
    stages = {name: stages[name] for name in ("teacher", "baseline", "student")}
    assistant = stage(
      ASSISTANT, 1000, 1e-2, teachers=("teacher",), objective=DISTILLED
    )
    if variant == "chain":
      teachers = ("assistant",)
    else:
      assistant = stage(ASSISTANT, 1600, 3e-3, curriculum=adaptive)
      teachers = ("teacher", "assistant")
    student = stage(STUDENT, 1000, 1e-2, teachers=teachers, objective=DISTILLED)
    stages = dict(
      teacher=stages["teacher"],
      assistant=assistant,
      baseline=stages["baseline"],
      student=student,
    )
  rate = 0.0 if variant == "clean" else 0.4
  return kdcl.run(
    name="digits" + (f":{variant}" if variant else ""),
    stages=tuple(stages),
    data=dict(
      source="digits",
      validation=200,
      label_noise=dict(
        kind="symmetric" if rate else "none", rate=rate, validation=True
      ),
    ),
    scorer=kdcl.scorer(
      model=TEACHER,
      steps=200,
      batch_size=32,
      folds=2,
      optimizer=dict(name="adam", learning_rate=3e-3),
    ),
    **stages,
  )
