"""Choice of test cases: few that together contain every pair of values."""

from __future__ import annotations

from itertools import combinations, product


def pairwise(**factors: tuple) -> list[dict]:
    """Return cases such that every value of a factor meets every value of every other in one of them.

    Greedy: the next case is the one with most pairs that have not been met.
    """
    names = sorted(factors)
    cases = [dict(zip(names, values, strict=True)) for values in product(*(factors[n] for n in names))]
    met = [{((a, c[a]), (b, c[b])) for a, b in combinations(names, 2)} for c in cases]
    left, chosen = set().union(*met), []
    while left:
        best = max(range(len(cases)), key=lambda i: len(met[i] & left))
        chosen.append(cases[best])
        left -= met[best]
    return chosen
