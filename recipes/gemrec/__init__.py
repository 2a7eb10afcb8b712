"""Which model for this prompt and this person: GEMRec's grid (arXiv 2308.02205), its statistics and our tables.

PYTHONPATH=src python -m recipes.gemrec --data FOLDER [--parts ...] [--quick] [--seed N] [--json FILE]
"""
