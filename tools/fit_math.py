#!/usr/bin/env python3
"""Fits the polynomials of nn.h's exp, tanh and log and prints them as C literals.

Method: weighted Remez exchange in 60-digit arithmetic (mpmath), so that the output does not depend
on the machine. A coefficient that is merely rounded to float at the end spoils the fit by half an
ulp of itself; here the coefficients are rounded one at a time, lowest power first, and the rest is
fitted again around what the rounding did. The weight makes it the relative error of the function
that is levelled, not the error of the polynomial.

    pip install mpmath numpy
    python3 fit_math.py
"""
import numpy as np
from mpmath import mp, mpf

mp.dps = 60
GRID = 1500


def to_float(v):
    """The float32 nearest to v; going through double rounds twice, which no fit can notice."""
    return mpf(float(np.float32(float(v))))


def literal(v):
    text = "%.17g" % float(v)
    if "." not in text and "e" not in text:
        text += ".0"
    return text + "f"


def extrema(points, errors, want):
    """`want` points where the error alternates and is largest, the largest of all among them."""
    runs = []

    def add(p, e):
        if runs and (runs[-1][1] > 0) == (e > 0):
            if abs(e) > abs(runs[-1][1]):
                runs[-1] = (p, e)
        else:
            runs.append((p, e))

    for p, e in zip(points, errors):
        add(p, e)
    while len(runs) > want:
        # Taking out an inner run joins its neighbours, so it costs two: not when one is too many.
        inner = range(len(runs)) if len(runs) > want + 1 else (0, len(runs) - 1)
        drop = min(inner, key=lambda i: abs(runs[i][1]))
        kept = runs[:drop] + runs[drop + 1:]
        runs = []
        for p, e in kept:
            add(p, e)
    return [p for p, _ in runs]


def remez(g, weight, lo, hi, degree):
    """Coefficients c of the minimax weight(x) * |g(x) - sum c[i] x^i|, and that error."""
    n = degree + 2
    mid, half = (lo + hi) / 2, (hi - lo) / 2
    points = [mid - half * mp.cos(mp.pi * (mpf(i) + mpf(1) / 3) / GRID) for i in range(GRID)]
    gs = [g(p) for p in points]
    ws = [weight(p) for p in points]
    step = (GRID - 1) / (n - 1)
    ref = [points[int(round(i * step))] for i in range(n)]
    for _ in range(40):
        a = mp.matrix(n, n)
        b = mp.matrix(n, 1)
        for i, p in enumerate(ref):
            for j in range(degree + 1):
                a[i, j] = p ** j
            a[i, degree + 1] = (-1) ** i / weight(p)
            b[i] = g(p)
        sol = mp.lu_solve(a, b)
        coef = [sol[j] for j in range(degree + 1)]
        errors = [w * (v - mp.polyval(coef[::-1], p)) for p, v, w in zip(points, gs, ws)]
        top = max(abs(e) for e in errors)
        ref2 = extrema(points, errors, n)
        if len(ref2) < n or ref2 == ref or top < abs(sol[degree + 1]) * (1 + mpf(10) ** -6):
            break
        ref = ref2
    return coef, top


def fit(name, g, weight, lo, hi, degree):
    coef, best = remez(g, weight, lo, hi, degree)
    fixed = []
    for k in range(degree + 1):
        def rest(x, k=k, fixed=tuple(fixed)):
            return (g(x) - mp.polyval(list(fixed)[::-1], x)) / x ** k if k else g(x)
        coef, _ = remez(rest, lambda x, k=k: weight(x) * abs(x) ** k, lo, hi, degree - k)
        fixed.append(to_float(coef[0]))
    points = [lo + (hi - lo) * (mpf(i) + mpf(1) / 3) / GRID for i in range(GRID)]
    got = max(weight(p) * abs(g(p) - mp.polyval(fixed[::-1], p)) for p in points)
    print("/* %s: relative error %s (ideal %s), in units of 2^-24: %s */"
          % (name, mp.nstr(got, 3), mp.nstr(best, 3), mp.nstr(got * 2 ** 24, 3)))
    for k, c in enumerate(fixed):
        print("    x^%d  %s" % (k, literal(c)))
    return fixed


def split_ln2(bits):
    """ln 2 = high + low; the high part has `bits` bits, so that n * high is exact."""
    ln2 = mp.log(2)
    scale = mpf(2) ** bits
    high = mp.nint(ln2 * scale) / scale
    print("/* ln 2 */\n    high %s\n    low  %s\n    log2(e) %s"
          % (literal(high), literal(to_float(ln2 - high)), literal(to_float(1 / ln2))))


def main():
    half_ln2 = mp.log(2) / 2 * (1 + mpf(2) ** -12)  # the rounding of x * log2(e) can overshoot
    split_ln2(15)
    fit("exp(x) = 1 + x + x^2 p(x)", lambda x: (mp.exp(x) - 1 - x) / x ** 2,
        lambda x: x ** 2 / mp.exp(x), -half_ln2, half_ln2, 4)
    limit = mpf(0.71875)
    fit("tanh(x) = x + x x^2 p(x^2)", lambda u: (mp.tanh(mp.sqrt(u)) / mp.sqrt(u) - 1) / u,
        lambda u: u ** mpf(1.5) / mp.tanh(mp.sqrt(u)), mpf(2) ** -20, limit ** 2, 4)
    fit("log(1 + x) = x - x^2/2 + x^3 p(x)", lambda x: (mp.log(1 + x) - x + x ** 2 / 2) / x ** 3,
        lambda x: abs(x ** 3 / mp.log(1 + x)), mp.sqrt(mpf(0.5)) - 1, mp.sqrt(2) - 1, 7)


if __name__ == "__main__":
    main()
