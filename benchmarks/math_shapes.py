"""Quantities, lists, tuples, intervals, matrices and texts in labelled forms, for math_judge.py."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from fractions import Fraction

from math_cases import MINUS, Case, Form, Kind, case, plain, quotient

LENGTHS = {"mm": Fraction(1, 1000), "cm": Fraction(1, 100), "m": Fraction(1), "km": Fraction(1000)}
MASSES = {"mg": Fraction(1, 1000), "g": Fraction(1), "kg": Fraction(1000)}
TIMES = {"seconds": Fraction(1), "minutes": Fraction(60), "hours": Fraction(3600)}
_LOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def _unit(rng: random.Random, factors: dict[str, Fraction], unit: str, v: Fraction, other: str) -> Case:
    """A quantity: ``other`` is a unit of another dimension."""

    def render(w: Fraction) -> list[str]:
        n = plain(w)
        texts = [f"{n} {unit}", rf"{n} \text{{ {unit}}}", rf"{n}\,\mathrm{{{unit}}}", rf"{n}\text{{{unit}}}"]
        long = {"cm": "centimetres", "m": "meters", "km": "kilometers", "kg": "kilograms", "g": "grams"}
        return [*texts, *([f"{n} {long[unit]}"] if unit in long else [])]

    size = v * factors[unit]
    extra: list[Form] = [(plain(w), ("bare", w)) for w in (v, v + 1, v * 10)]
    for name, factor in factors.items():
        if name != unit and 10**6 % (w := size / factor).denominator == 0:
            extra += [(f"{plain(w)} {name}", size), (rf"{plain(w)} \text{{ {name}}}", size)]
        extra.append((rf"{plain(v)} \text{{ {name}}}", v * factor))
    extra += [(f"{plain(v)} {other}", other), (rf"{plain(v)} \text{{ {other}}}", other)]
    gold = rng.choice([rf"{plain(v)} \text{{ {unit}}}", f"{plain(v)} {unit}"])
    near = [v + 1, v * 10]
    return case(rng, gold, render, v, near, extra, measure=lambda w: w * factors[unit], also=[("bare", v)])


def length(rng: random.Random) -> Case:
    v = Fraction(rng.randint(2, 95), rng.choice([1, 1, 2, 10]))
    return _unit(rng, LENGTHS, rng.choice(["cm", "m", "km"]), v, rng.choice(["kg", "seconds"]))


def mass(rng: random.Random) -> Case:
    return _unit(rng, MASSES, rng.choice(["g", "kg"]), Fraction(rng.randint(2, 95), rng.choice([1, 2])), "cm")


def time(rng: random.Random) -> Case:
    v = Fraction(rng.randint(1, 20) * 30)
    return _unit(rng, TIMES, "minutes", v, "metres")


def area(rng: random.Random) -> Case:
    v, unit = rng.randint(3, 90), rng.choice(["cm", "m"])
    long = {"cm": "centimetres", "m": "metres"}[unit]

    def render(w: int) -> list[str]:
        texts = [
            rf"{w} \text{{ {unit}}}^2",
            f"{w} {unit}²",
            f"{w} square {long}",
            rf"{w}\,\mathrm{{{unit}}}^{{2}}",
        ]
        return [*texts, f"{w} {unit}^2"]

    cube, other = (rf"{v} \text{{ {unit}}}^3", "cube"), {"cm": "m", "m": "cm"}[unit]
    extra: list[Form] = [(str(v), v), (f"{v} {unit}", "line"), (f"{v} {unit}³", "cube"), cube]
    extra += [(rf"{v} \text{{ {other}}}^2", other), (f"{v} {other}²", other), (f"{v + 1}", v + 1)]
    if unit == "m":
        extra += [(f"{v}0000 cm²", v), (f"{v}00 cm²", Fraction(v, 100))]
    return case(rng, rng.choice(render(v)[:2]), render, v, [v + 1, v * 10], extra)


def degrees(rng: random.Random) -> Case:
    v = rng.choice([15, 30, 36, 40, 45, 60, 72, 75, 110, 120, 135, 150])

    def render(w: int) -> list[str]:
        return [
            rf"{w}^\circ",
            rf"{w}^{{\circ}}",
            f"{w}°",
            f"{w} degrees",
            rf"{w}\text{{ degrees}}",
            rf"{w}\degree",
        ]

    gold = rng.choice([str(v), rf"{v}^\circ"])
    extra: list[Form] = [(str(v), v), (str(v + 1), v + 1)]
    if gold != str(v):  # a bare number may be per cent
        extra.append((f"{v}%", "percent"))
    return case(rng, gold, render, v, [180 - v, -v, v + 10, v * 10], extra)


def _orders(values: Sequence[int], join: str) -> list[str]:
    return [join.join(map(str, order)) for order in itertools.permutations(values)]


def _several(rng: random.Random) -> tuple[int, ...]:
    return tuple(sorted(rng.sample([n for n in range(-12, 60) if n], rng.choice([2, 2, 3]))))


def _others(rng: random.Random, v: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [v[1:], v[:-1], (*v, max(v) + rng.randint(1, 5)), (*v[:-1], v[-1] + 1), tuple(-n for n in v)]


def several(rng: random.Random) -> Case:
    v = _several(rng)

    def render(w: tuple[int, ...]) -> list[str]:
        texts = [*_orders(w, ", "), *_orders(w, ","), ", ".join(map(str, w)).replace("-", MINUS)]
        named = [f"x = {order[0]}" + "".join(f", x = {n}" for n in order[1:]) for order in (w, w[::-1])]
        if len(w) != 2:
            return [*texts, *named]
        words = [
            f"{w[0]} and {w[1]}",
            rf"{w[1]} \text{{ and }} {w[0]}",
            rf"x = {w[0]} \text{{ or }} x = {w[1]}",
        ]
        return [*texts, *named, *words]

    return case(rng, ", ".join(map(str, v)), render, v, _others(rng, v), measure=lambda w: tuple(sorted(w)))


def collection(rng: random.Random) -> Case:
    v = _several(rng)

    def render(w: tuple[int, ...]) -> list[str]:
        left = [rf"\{{{order}\}}" for order in _orders(w, ", ")]
        return [*left, *(rf"\left\{{{order}\right\}}" for order in _orders(w, ","))]

    return case(rng, render(v)[0], render, v, _others(rng, v), measure=lambda w: tuple(sorted(w)))


def point(rng: random.Random) -> Case:
    v = tuple(
        Fraction(n, d)
        for n, d in zip(rng.sample([-7, -5, -3, -1, 1, 3, 5, 7, 9], 2), (1, rng.choice([1, 2])), strict=True)
    )
    v = (*v, Fraction(rng.randint(2, 8))) if rng.random() < 0.3 else v

    def render(w: tuple[Fraction, ...]) -> list[str]:
        parts = [quotient(n) if n.denominator > 1 else str(n) for n in w]
        texts = [f"({', '.join(parts)})", f"({','.join(parts)})", rf"\left({', '.join(parts)}\right)"]
        return [*texts, f"({', '.join(map(plain, w))})", f"({', '.join(map(str, w))})".replace("-", MINUS)]

    near = [v[::-1], tuple(-n for n in v), (*v, Fraction(0)), (v[0] + 1, *v[1:]), (*v[:-1], v[-1] * 2)]
    return case(rng, render(v)[0], render, v, near)


def interval(rng: random.Random) -> Case:
    low, high = rng.randint(-9, 3), rng.randint(4, 20)
    v = (rng.choice("(["), str(low), str(high), rng.choice(")]"))
    if rng.random() < 0.3:
        v = ("(", r"-\infty", str(high), v[3])

    def render(w: tuple[str, str, str, str]) -> list[str]:
        left, start, stop, right = w
        text = f"{left}{start}, {stop}{right}"
        texts = [text, text.replace(" ", ""), rf"\left{left}{start}, {stop}\right{right}"]
        return [*texts, text.replace(r"\infty", "∞"), text.replace(r"-\infty", MINUS + "∞")]

    left, start, stop, right = v
    other = {"(": "[", "[": "(", ")": "]", "]": ")"}
    near = [
        (left, start, stop, other[right]),
        (left, start, str(high + 1), right),
        (left, "0" if low else "1", stop, right),
    ]
    near += [("(", start, r"\infty", ")")] if start == str(low) else [(left, str(low), stop, right)]
    near += [(other[left], start, stop, right)] if start == str(low) else []
    return case(rng, render(v)[0], render, v, near)


def based(rng: random.Random) -> Case:
    base = rng.choice([5, 6, 7, 8, 9])
    digits = str(rng.randint(1, 4)) + "".join(str(rng.randint(0, 4)) for _ in range(rng.randint(2, 3)))

    def render(w: tuple[str, int]) -> list[str]:
        return [f"{w[0]}_{w[1]}", f"{w[0]}_{{{w[1]}}}", f"{w[0]}{str(w[1]).translate(_LOW)}"]

    near = [
        (digits, base + 1),
        (digits, base - 1),
        (digits, 10),
        (str(int(digits) + 1), base),
        (digits + "1", base),
    ]
    extra: list[Form] = [
        (digits, (digits, base)),
        (str(int(digits, base)), "ten"),
        (str(int(digits) + 1), "off"),
    ]
    return case(rng, f"{digits}_{rng.choice([base, f'{{{base}}}'])}", render, (digits, base), near, extra)


def matrix(rng: random.Random) -> Case:
    p, q, r, s = rng.sample(range(-9, 15), 4)

    def render(w: tuple[int, ...]) -> list[str]:
        rows = rf"{w[0]} & {w[1]} \\ {w[2]} & {w[3]}"
        texts = [rf"\begin{{{name}}} {rows} \end{{{name}}}" for name in ("pmatrix", "bmatrix")]
        return [*texts, texts[0].replace(" ", "")]

    near = [(p, r, q, s), (p, q, r, s + 1), (-p - 1, q, r, s), (q, p, r, s)]
    return case(rng, render((p, q, r, s))[0], render, (p, q, r, s), near)


def choice(rng: random.Random) -> Case:
    letters = rng.sample("ABCDE", 3)

    def render(w: str) -> list[str]:
        return [
            w,
            f"({w})",
            rf"\text{{{w}}}",
            rf"\text{{({w})}}",
            rf"\textbf{{({w})}}",
            rf"\mathrm{{{w}}}",
            rf"\textbf{{{w}}}",
        ]

    extra: list[Form] = [("".join(letters[:2]), "two"), (", ".join(letters[:2]), "two")]
    return case(
        rng, rng.choice([letters[0], rf"\text{{{letters[0]}}}"]), render, letters[0], letters[1:], extra
    )


def words(rng: random.Random) -> Case:
    days = (
        ["Tuesday", "Thursday", "Sunday"],
        ["even", "odd", "neither"],
        ["red", "blue", "green"],
        ["Anna", "Evelyn", "Ben"],
    )
    names = rng.sample(rng.choice(days), 3)

    def render(w: str) -> list[str]:
        return [w, rf"\text{{{w}}}", rf"\textbf{{{w}}}", rf"\mathrm{{{w}}}", rf"\text{{ {w}}}"]

    return case(rng, rf"\text{{{names[0]}}}", render, names[0], names[1:])


SHAPES: tuple[Kind, ...] = (length, mass, time, area, degrees)
SHAPES += (several, collection, point, interval, based, matrix, choice, words)
