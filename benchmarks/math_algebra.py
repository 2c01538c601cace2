"""Roots, constants, polynomials and complex numbers in labelled forms, for math_judge.py."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import sympy
from math_cases import MINUS, Case, Form, Kind, case, decimals, quotient

x, a, b = sympy.symbols("x a b")


def _simple(value: Any) -> Any:
    return sympy.radsimp(sympy.expand(value))


def surd(rng: random.Random) -> Case:
    r = rng.choice([2, 3, 5, 6, 7])
    v = Fraction(rng.randint(2, 9), rng.choice([2, 3, 4, 5, 7]))
    v += v.denominator == 1 and Fraction(1, 2)

    def render(w: tuple[Fraction, int]) -> list[str]:
        p, q, n = w[0].numerator, w[0].denominator, w[1]
        texts = [
            rf"\frac{{{p}\sqrt{{{n}}}}}{{{q}}}",
            rf"\dfrac{{{p}\sqrt{n}}}{{{q}}}",
            rf"{p}\sqrt{{{n}}}/{q}",
        ]
        texts += [rf"\frac{{{p}}}{{{q}}}\sqrt{{{n}}}", f"{p}√{n}/{q}", f"{p}*sqrt({n})/{q}", f"({p}√{n})/{q}"]
        return [*texts, rf"\frac{{{p * n}}}{{{q}\sqrt{{{n}}}}}"]

    def measure(w: tuple[Fraction, int]) -> Any:
        return _simple(sympy.Rational(w[0].numerator, w[0].denominator) * sympy.sqrt(w[1]))

    near = [(1 / v, r), (v, r + 1 + (r in (3, 8))), (-v, r), (v + 1, r)]
    extra = [
        *decimals(measure((v, r))),
        (quotient(v), v),
        (rf"\frac{{{v.numerator * r}}}{{{v.denominator}}}", v * r),
    ]
    return case(rng, render((v, r))[0], render, (v, r), near, extra, measure=measure, named=True)


def surd_sum(rng: random.Random) -> Case:
    p, q, r = rng.randint(1, 9), rng.randint(2, 5), rng.choice([2, 3, 5, 7])

    def render(w: tuple[int, int, int]) -> list[str]:
        m, n, k = w
        sign, size = ("+", n) if n > 0 else ("-", -n)
        texts = [rf"{m} {sign} {size}\sqrt{{{k}}}", rf"{n}\sqrt{{{k}}} + {m}", f"{m} {sign} {size}√{k}"]
        return [
            *texts,
            rf"{m}{sign}{size}\sqrt{k}",
            rf"{m} {sign} \sqrt{{{n * n * k}}}",
            f"{m}{sign}{size}*sqrt({k})",
        ]

    def measure(w: tuple[int, int, int]) -> Any:
        return _simple(w[0] + w[1] * sympy.sqrt(w[2]))

    near = [(p, -q, r), (p + 1, q, r), (q, p, r), (p, q, r + 1), (p, q + 1, r)]
    return case(
        rng, render((p, q, r))[0], render, (p, q, r), near, decimals(measure((p, q, r))), measure=measure
    )


def circle(rng: random.Random) -> Case:
    v = Fraction(rng.randint(2, 25), rng.choice([1, 2, 3, 4, 6]))

    def render(w: Fraction) -> list[str]:
        p, q = w.numerator, w.denominator
        if q == 1:
            return [rf"{p}\pi", f"{p}π", rf"{p} \cdot \pi", rf"\pi \cdot {p}", f"{p}*pi", f"{p} pi"]
        return [
            rf"\frac{{{p}\pi}}{{{q}}}",
            rf"\frac{{{p}}}{{{q}}}\pi",
            f"{p}π/{q}",
            rf"\dfrac{{{p} \pi}}{{{q}}}",
            f"{p}*pi/{q}",
        ]

    def measure(w: Fraction) -> Any:
        return sympy.Rational(w.numerator, w.denominator) * sympy.pi

    extra = [
        *decimals(measure(v)),
        (quotient(v) if v.denominator > 1 else str(v), v),
        (f"{float(v) * 3.14:.2f}", "rough"),
    ]
    extra.append((rf"{v.numerator}\pi^2", "square"))
    return case(rng, render(v)[0], render, v, [1 / v, -v, v + 1, v * 2], extra, measure=measure, named=True)


def euler(rng: random.Random) -> Case:
    n, k = rng.randint(1, 6), rng.randint(1, 4)

    def render(w: tuple[int, int]) -> list[str]:
        m, j = w
        sign, size = ("-", j) if j > 0 else ("+", -j)
        tops = [rf"{m} {sign} \frac{{{size}}}{{{name}}}" for name in ("e", r"\mathrm{e}", r"\text{e}")]
        return [
            *tops,
            rf"{m} {sign} {size}e^{{-1}}",
            rf"\frac{{{m}e {sign} {size}}}{{e}}",
            f"{m} {sign} {size}/e",
        ]

    def measure(w: tuple[int, int]) -> Any:
        return w[0] - w[1] / sympy.E

    extra = [*decimals(measure((n, k))), (f"{n} - {k}e", "product"), (rf"{n} - \frac{{{k}}}{{\pi}}", "pi")]
    near = [(n, -k), (n + 1, k), (n, k + 1), (-n, k)]
    return case(rng, render((n, k))[rng.randint(0, 1)], render, (n, k), near, extra, measure=measure)


def _signed(terms: Sequence[tuple[int, str]]) -> str:
    text = ""
    for factor, name in terms:
        size = "" if abs(factor) == 1 and name else str(abs(factor))
        text += ("-" if factor < 0 else "") if not text else (" - " if factor < 0 else " + ")
        text += size + name
    return text


def polynomial(rng: random.Random) -> Case:
    roots = (rng.choice([-5, -4, -2, 1, 3]), rng.choice([-3, -1, 2, 4, 6]))

    def render(w: tuple[int, int]) -> list[str]:
        m, n = w
        terms = [term for term in ((1, "x^2"), (-m - n, "x"), (m * n, "")) if term[0]]
        text = _signed(terms)
        texts = [
            text,
            _signed(terms[::-1]),
            text.replace("^2", "^{2}"),
            text.replace("^2", "²"),
            text.replace(" ", ""),
        ]
        factors = [f"(x {'-' if root > 0 else '+'} {abs(root)})" for root in w]
        return [
            *texts,
            "".join(factors),
            "".join(factors[::-1]),
            text.replace("x^2", "x**2"),
            text.replace("-", MINUS),
        ]

    def measure(w: tuple[int, int]) -> Any:
        return sympy.expand((x - w[0]) * (x - w[1]))

    m, n = roots
    near = [(-m, -n), (m, -n), (m + 1, n), (m, n + 2)]
    extra: list[Form] = [
        (render(roots)[0].replace("x^2", "2x^2"), "double"),
        (render(roots)[0].replace("^2", "^3"), "cube"),
    ]
    return case(rng, render(roots)[0], render, roots, near, extra, measure=measure)


def monomial(rng: random.Random) -> Case:
    v = (rng.randint(2, 9), rng.randint(2, 5), rng.choice([1, 6, 7]))

    def render(w: tuple[int, int, int]) -> list[str]:
        c, m, n = w
        ends = (f"a^{{{m}}}", f"b^{{{n}}}" if n > 1 else "b")
        return [
            f"{c}{ends[0]}{ends[1]}",
            f"{c}{ends[1]}{ends[0]}",
            rf"{c} \cdot {ends[0]} \cdot {ends[1]}",
            f"{c}a^{m} b^{n}",
        ]

    def measure(w: tuple[int, int, int]) -> Any:
        return w[0] * a ** w[1] * b ** w[2]

    near = [(v[0], v[2], v[1]), (v[0] + 1, v[1], v[2]), (v[0], v[1] + 1, v[2]), (-v[0], v[1], v[2])]
    return case(rng, render(v)[0], render, v, near, measure=measure)


def ratio(rng: random.Random) -> Case:
    v = (rng.randint(1, 9), rng.randint(2, 9))

    def render(w: tuple[int, int]) -> list[str]:
        m, n = w
        tops = [rf"\{name}{{x + {m}}}{{x - {n}}}" for name in ("frac", "dfrac")]
        return [
            *tops,
            f"(x + {m})/(x - {n})",
            rf"\frac{{{m} + x}}{{x - {n}}}",
            rf"\frac{{2x + {2 * m}}}{{2x - {2 * n}}}",
        ]

    def measure(w: tuple[int, int]) -> Any:
        return sympy.cancel((x + w[0]) / (x - w[1]))

    m, n = v
    extra: list[Form] = [
        (rf"\frac{{x - {n}}}{{x + {m}}}", "inverse"),
        (rf"\frac{{x + {m}}}{{x + {n}}}", "sign"),
    ]
    return case(rng, render(v)[0], render, v, [(m + 1, n), (m, n + 1)], extra, measure=measure)


def complex_number(rng: random.Random) -> Case:
    v = (rng.randint(1, 9), rng.choice([-7, -5, -3, 2, 4, 6]))

    def render(w: tuple[int, int]) -> list[str]:
        text = _signed([(w[0], ""), (w[1], "i")])
        return [text, text.replace(" ", ""), _signed([(w[1], "i"), (w[0], "")]), text.replace("-", MINUS)]

    m, n = v
    extra: list[Form] = [(str(m), "real"), (_signed([(m, ""), (n, "")]), "sum")]
    return case(rng, render(v)[0], render, v, [(m, -n), (n, m), (m + 1, n), (-m, n)], extra)


ALGEBRA: tuple[Kind, ...] = (surd, surd_sum, circle, euler, polynomial, monomial, ratio, complex_number)
