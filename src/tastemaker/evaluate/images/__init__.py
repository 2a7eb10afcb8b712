"""Judge pictures: prompt shown, structure kept, style reached, and which model of a grid drew the best one.

Each measure says in its module what the published code does and where ours differs; `judge.judge` makes one table of
all that can be had. Networks are given, never fetched; edges, style reading and pixel measures need none. `gallery`
works on vectors and tables alone.
"""
