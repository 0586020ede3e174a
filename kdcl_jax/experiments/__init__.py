"""Experiments: runs that are tuned alike, compared and judged by one rule.

`schema` and `definition` say what an experiment is, `tuning` and `cells` do it,
`workers` in several processes; `verdicts`, `summary`, `chapters` and `plots`
say what came of it.
"""
