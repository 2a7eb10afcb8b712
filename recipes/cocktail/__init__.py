"""What a cocktail keeps and what it reaches, beside every simpler way: `python -m recipes.cocktail`.

Every model draws the same prompts. Each of these pictures is then brought into the style of every other model, by each
method at several settings of its dial, and two things are read off: how much of the picture's structure is kept, and
whether the other model's style is reached. A method is a curve between the two, so methods are compared at equal style.

`methods` says what is compared and draws it, `study` runs through pairs of models and keeps what is finished, `judge`
measures, `verdict` compares curves, `report` prints; `pie_bench` is the published anchor for one model.
"""
