"""Injection attacks: what a liar with fake users can do to a recommender, so that you know it before others do.

For drills on logs you own. Nothing here talks to a system, and every fake row is marked `simulated`.
`attack.bilevel` learns fake users, `attack.heuristic` makes them by rule, `attack.evade` hides them from a detector.
`attack.detect` finds them, `attack.defend` trains so that they sway less, `attack.certify` proves how far they can, and
`attack.drill` says what all of it does to whom.
"""

from tastemaker.attack.profiles import Budget, Fakes, Knowledge, draw_targets, poisoned, popularity_class

__all__ = ["Budget", "Fakes", "Knowledge", "draw_targets", "poisoned", "popularity_class"]
