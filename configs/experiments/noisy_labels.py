r"""Does a curriculum for the teacher help its student when labels are wrong?

  python -m kdcl_jax.experiment --config=configs/experiments/noisy_labels.py \
    --workdir=runs/noisy_digits

Digits, 20 seeds trained together: symmetric label noise of 0, 20, 40 and 60 %,
pair-flip noise of 20, 30 and 40 %. The runs are not told, and validation labels
are as noisy as the rest; test labels are true. Every student makes the same
number of steps, and so does every teacher with its scoring. Each stage's
learning rate is the one with the best validation accuracy on seeds that are not
reported. An arm wins where it is above plain training, distillation, and
distillation from an early-stopped teacher, and above its twin, whose course has
a random order. What came out is in docs/noisy_labels.md. 40 minutes on two
cores.

Variants, each a command with a directory of its own: `:fashion` (the same on
Fashion-MNIST with convolutional networks and five seeds, see
`configs/fashion_mnist.py` for the data; rates tuned at symmetric 40 %, without
`early_stopped` and `student_anti`; an hour and a half with `--jobs=2`),
`:budgets` (the 2 x 2 of distillation and curriculum on digits with 40 % noise
and students of 60 to 4,000 steps), `:records` (records x epochs on
Fashion-MNIST with 40 % noise, two seeds, nothing tuned).
"""

from ml_collections import ConfigDict

from kdcl_jax import config as kdcl

VARIANTS = ("digits", "fashion", "budgets", "records")
NOISES = {
  "symmetric_40": ("symmetric", 0.4),
  "clean": ("none", 0.0),
  "symmetric_60": ("symmetric", 0.6),
  "pair_flip_30": ("pair_flip", 0.3),
  "symmetric_20": ("symmetric", 0.2),
  "pair_flip_40": ("pair_flip", 0.4),
  "pair_flip_20": ("pair_flip", 0.2),
}
DISTILLED = dict(
  cross_entropy=dict(coefficient=0.1),
  kd=dict(coefficient=0.9, temperature=2.0),
)


def course(order: str) -> dict:
  """The adaptive course, which ends with the best that it has been."""
  curriculum = dict(
    order=order,
    pacing=dict(name="linear", start=0.3, reach=0.5),
    lessons=30,
    freeze=dict(on=True, patience=3),
  )
  return dict(curriculum=curriculum, keep="best")


LOOKING = dict(curriculum=dict(lessons=30), keep="best")  # early stopping
TEACHERS = {
  "teacher_plain": {},
  "teacher_early_stopped": LOOKING,
  "teacher": course("curriculum"),
  "teacher_random": course("random"),
  "teacher_anti": course("anti"),
}
STUDENTS = {  # the teacher of each, and its own course
  "baseline": ("", {}),
  "early_stopped": ("", LOOKING),
  "curriculum": ("", course("curriculum")),
  "kd": ("teacher_plain", {}),
  "kd_early_stopped": ("teacher_early_stopped", {}),
  "student": ("teacher", {}),
  "student_random": ("teacher_random", {}),
  "student_anti": ("teacher_anti", {}),
  "student_curriculum": ("teacher", course("curriculum")),
}
RIVALS = ("baseline", "kd", "kd_early_stopped")
TWO_BY_TWO = ("baseline", "curriculum", "kd", "student")
BUDGETS = (60, 250, 1000, 4000)
# Records, epochs, and the seeds that can be afforded.
RECORDS = (
  (5000, 4),
  (5000, 12),
  (5000, 38),
  (20000, 4),
  (20000, 12),
  (54000, 4),
)


def run(
  noise: str,
  *,
  data: dict,
  teacher: dict,
  student: dict,
  rates: tuple[float, float],
  batch_size: int,
  teacher_steps: int,
  student_steps: int,
  scorer_steps: int,
  seeds: int,
  students: tuple[str, ...] = tuple(STUDENTS),
  vmap_seeds: int = 1,
) -> ConfigDict:
  """The run of a cell."""
  kind, rate = NOISES[noise]

  def stage(model: dict, steps: int, rate: float, **fields) -> ConfigDict:
    optimizer = dict(name="adam", learning_rate=rate)
    return kdcl.stage(
      model=model,
      steps=steps,
      batch_size=batch_size,
      optimizer=optimizer,
      **fields,
    )

  taught = {name: STUDENTS[name][0] for name in students}
  stages = {}
  for name, fields in TEACHERS.items():
    order = fields.get("curriculum", {}).get("order", "none")
    scored = order in ("curriculum", "anti")
    if name in taught.values():
      steps = teacher_steps - 2 * scorer_steps * scored  # two folds
      stages[name] = stage(teacher, steps, rates[0], **fields)
  for name in students:
    above, fields = STUDENTS[name]
    if above:
      fields = fields | dict(teachers=(above,), objective=DISTILLED)
    stages[name] = stage(student, student_steps, rates[1], **fields)
  return kdcl.run(
    name=noise,
    seed=300,
    seeds=seeds,
    vmap_seeds=vmap_seeds,
    stages=tuple(stages),
    data=data
    | dict(label_noise=dict(kind=kind, rate=rate, validation=kind != "none")),
    scorer=kdcl.scorer(
      model=teacher,
      steps=scorer_steps,
      batch_size=batch_size,
      folds=2,
      optimizer=dict(name="adam", learning_rate=rates[0]),
    ),
    export="",
    tensorboard=False,
    log_steps=500,
    checkpoint_steps=2000,
    **stages,
  )


def digits(noise: str, steps: int = 1000, **fields) -> ConfigDict:
  """1,000 training and 200 validation records, 597 test records."""
  return run(
    noise,
    data=dict(source="digits", validation=200),
    teacher=dict(name="mlp", widths=(256, 256)),
    student=dict(name="mlp", widths=(12,)),
    rates=(3e-3, 1e-2),
    batch_size=32,
    teacher_steps=2000,
    student_steps=steps,
    scorer_steps=200,
    seeds=20,
    vmap_seeds=20,
    **fields,
  )


def fashion(
  noise: str,
  records: int = 5000,
  teacher_steps: int = 3000,
  student_steps: int = 2000,
  seeds: int = 5,
  **fields,
) -> ConfigDict:
  """Training records, 1,000 validation records, 10,000 test records."""
  return run(
    noise,
    data=dict(
      source="tfds:fashion_mnist",
      mean=(0.286,),
      std=(0.353,),
      train_size=records + 1000,
      validation=1000,
    ),
    teacher=dict(name="cnn", widths=(32, 64), hidden=128),
    student=dict(name="cnn", widths=(6, 12), hidden=24),
    rates=(1e-3, 3e-3),
    batch_size=64,
    teacher_steps=teacher_steps,
    student_steps=student_steps,
    scorer_steps=teacher_steps // 20,
    seeds=seeds,
    **fields,
  )


def get_config(variant: str = "digits") -> ConfigDict:
  """The config of a variant."""
  lower = dict.fromkeys(TEACHERS, (1e-3, 3e-3, 1e-2))
  tuning = dict(values=dict(default=(3e-3, 1e-2, 3e-2), **lower), seeds=5)
  claim = dict(against=RIVALS, twin="student_random")
  claims = dict(student=claim, student_curriculum=claim)
  if variant == "digits":
    runs = {noise: digits(noise) for noise in NOISES}
  elif variant == "fashion":
    left_out = ("early_stopped", "student_anti")  # for time
    arms = tuple(name for name in STUDENTS if name not in left_out)
    runs = {noise: fashion(noise, students=arms) for noise in NOISES}
    taught = [name for name in TEACHERS if name != "teacher_anti"]
    lower = dict.fromkeys(taught, (3e-4, 1e-3, 3e-3))
    tuning = dict(
      values=dict(default=(1e-3, 3e-3, 1e-2), **lower),
      seeds=2,
      at=dict.fromkeys(NOISES, "symmetric_40"),
    )
  elif variant == "budgets":
    taught = {name: lower[name] for name in ("teacher_plain", "teacher")}
    tuning["values"] = dict(default=(3e-3, 1e-2, 3e-2), **taught)
    runs = {
      f"steps_{steps}": digits("symmetric_40", steps, students=TWO_BY_TWO)
      for steps in BUDGETS
    }
    claims = dict(student=dict(against=("baseline", "curriculum", "kd")))
  elif variant == "records":
    runs, tuning = {}, {}
    claims = dict(student=dict(against=RIVALS))
    for records, epochs in RECORDS:
      steps = epochs * -(-records // 64)
      runs[f"records_{records}_epochs_{epochs}"] = fashion(
        "symmetric_40",
        records,
        steps,
        steps,
        seeds=2,
        students=(*RIVALS, "student"),
      )
  else:
    raise ValueError(f"no variant {variant!r}; valid are {VARIANTS}")
  return kdcl.experiment(
    name=f"noisy_labels:{variant}", runs=runs, tuning=tuning, claims=claims
  )
