"""Correcting the feedback loop (Pan et al. 2021, arXiv 2109.06037): `python -m recipes.feedback_loop`.

Five parts, each a module with `run`: `table` (simulated exposure with known probabilities), `coat` (published
protocols), `jester` (the loop forming and being corrected on fully observed ratings), `movielens` (predicting exposure
in time), `kuairec` (a folder of one's own: trained on the chosen, judged on the fully observed matrix).
"""
