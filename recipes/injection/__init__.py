"""What a liar can do to a recommender with a small budget, and what stops it (Tang, Wen, Wang, RecSys 2020).

`synthetic` repeats the paper's synthetic experiment, `gowalla` its protocol on its own data, `curves` varies budget and
knowledge, `defences` asks what helps and at what price, `elsewhere` attacks films and a gallery of generated pictures.
"""
