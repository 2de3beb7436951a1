def draw(*a): return "<svg/>"
