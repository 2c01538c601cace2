"""Numbers and their labelled forms, for math_judge.py."""

from __future__ import annotations

import random
from fractions import Fraction

from math_cases import (
    HIGH,
    MINUS,
    THIN,
    VULGAR,
    WIDE,
    Case,
    Form,
    Kind,
    case,
    decimals,
    exact,
    plain,
    proper,
    quotient,
    rounded,
)


def integer(rng: random.Random) -> Case:
    n = rng.randint(3, 999)

    def render(v: int) -> list[str]:
        more = [str(v).translate(WIDE), rf"{v}\text{{ apples}}", f"{v} apples", f"+{v}", rf"\text{{{v}}}"]
        return [str(v), f"{v}.0", f"{v}.00", f"{v} ", rf"\mathbf{{{v}}}", *more]

    a = rng.randint(1, n - 1)
    sums = [
        f"{a} + {n - a}",
        f"{n + a} - {a}",
        f"{2 * n}/2",
        rf"\frac{{{3 * n}}}{{3}}",
        rf"2 \times {n} - {n}",
    ]
    near = [n + 1, n - 1, 10 * n, n + 100, int(f"1{n}"), int(f"{n}1"), int(f"{n}"[::-1]) or 1]
    extra: list[Form] = [
        *((text, ("unevaluated", text)) for text in sums),
        (f"-{n}", -n),
        (f"{n}, {n + 1}", "two"),
        (rf"{n} \text{{ or }} {n - 1}", "two"),
        (f"{n}.5", n + 0.5),
    ]
    return case(rng, str(n), render, n, near, extra, named=True)


def negative(rng: random.Random) -> Case:
    n = -rng.randint(2, 400)

    def render(v: int) -> list[str]:
        return [str(v), str(v).replace("-", MINUS), f"{v}.0", f"{v} metres", str(v).replace("-", "- ")]

    return case(rng, str(n), render, n, [n - 1, n + 1, 10 * n, -n], named=True)


def power(rng: random.Random) -> Case:
    base, exponent = rng.choice([(2, rng.randint(2, 6)), (3, rng.randint(2, 4)), (5, 2), (10, 3)])
    n = base**exponent
    sums = [f"{base}**{exponent}", f"{base}^{exponent}", rf"{base}^{{{exponent}}}", f"{n // base} * {base}"]
    extra: list[Form] = [
        *((text, ("unevaluated", text)) for text in sums),
        (rf"\sqrt{{{n * n}}}", "unevaluated"),
    ]
    return case(
        rng, str(n), lambda v: [str(v), f"{v}.0", f"{v}\\,"], n, [base * exponent + 1, n * base], extra
    )


def thousands(rng: random.Random) -> Case:
    n = rng.randint(1_001, 9_876_543)

    def render(v: int) -> list[str]:
        comma = f"{v:,}"
        spaced = [comma.replace(",", mark) for mark in ("{,}", r"\,", r",\!", THIN, "\u202f")]
        return [str(v), comma, *spaced]

    near = [n + 1, n - 1000, n * 10, n // 1000 + 1]
    extra: list[Form] = [(f"{n:,}".split(",")[0], 0), (f"{n:,}".split(",")[-1], 0)]
    return case(rng, rng.choice([str(n), f"{n:,}"]), render, n, near, extra, named=True)


def big(rng: random.Random) -> Case:
    n = rng.randint(10**22, 10**34) * 10 + rng.randint(2, 8)
    short: list[Form] = [(rf"{rounded(Fraction(n), 6)[:1]} \times 10^{{{len(str(n)) - 1}}}", "rounded")]
    near = [n + 1, n - 1, n + 10**9, n // 10, n * 10]
    return case(rng, str(n), lambda v: [str(v), f"{v:,}", f"{v}.0"], n, near, short)


def decimal(rng: random.Random) -> Case:
    v = Fraction(rng.randint(101, 9999), 100)
    v += Fraction(1, 100) * (v.denominator == 1)

    def render(w: Fraction) -> list[str]:
        return [plain(w), plain(w) + "0", quotient(w), f"{w}", rf"{plain(w)} \text{{ kg}}", f"{plain(w)} kg"]

    cut = exact(str(int(v)))
    near = [v + Fraction(1, 100), v - Fraction(1, 10), v * 10, v / 10, -v, cut]
    return case(rng, plain(v), render, v, near, named=True)


def fraction(rng: random.Random) -> Case:
    v = proper(rng, (2, 4, 5, 8, 16, 20, 25)) + rng.randint(0, 3)

    def render(w: Fraction) -> list[str]:
        p, q = w.numerator, w.denominator
        texts = [f"{p}/{q}", quotient(w), quotient(w, "dfrac"), quotient(w, "tfrac"), plain(w), f"{p}⁄{q}"]
        texts += [f"{2 * p}/{2 * q}", rf"\frac{{{3 * p}}}{{{3 * q}}}"]
        texts += [rf"\frac{p}{q}"] if 0 < p < 10 > q else []
        return texts + ([VULGAR[p, q]] if (p, q) in VULGAR else [])

    p, q = v.numerator, v.denominator
    near = [1 / v, -v, Fraction(p + 1, q), v * 10, v + 1]
    return case(rng, rng.choice([f"{p}/{q}", quotient(v)]), render, v, near, named=True)


def endless(rng: random.Random) -> Case:
    v = proper(rng, (3, 7, 9, 11, 13, 17)) + rng.randint(0, 9)

    def render(w: Fraction) -> list[str]:
        p, q = w.numerator, w.denominator
        return [f"{p}/{q}", quotient(w), quotient(w, "dfrac"), f"{5 * p}/{5 * q}"]

    near = [1 / v, -v, v + Fraction(1, v.denominator)]
    return case(rng, rng.choice([str(v), quotient(v)]), render, v, near, decimals(v), named=True)


def mixed(rng: random.Random) -> Case:
    whole, part = rng.randint(1, 12), proper(rng, (2, 3, 4, 5, 8))
    v = whole + part

    def render(w: Fraction) -> list[str]:
        n, rest = int(w), w - int(w)
        texts = [
            f"{n} {rest}",
            rf"{n} {quotient(rest)}",
            rf"{n}{quotient(rest, 'tfrac')}",
            f"{w}",
            f"{n} {rest} m",
        ]
        return [*texts, *(f"{n}{gap}{VULGAR[rest.numerator, rest.denominator]}" for gap in ("", " ", THIN))]

    glued = Fraction(int(f"{whole}{part.numerator}"), part.denominator)
    extra: list[Form] = [
        (str(whole), whole),
        (f"{part}", part),
        (f"{glued}", glued),
        (f"-{whole} {part}", -v),
    ]
    near = [v + 1, whole + 1 - part] if part != Fraction(1, 2) else [v + 1, v + 2]
    return case(rng, rng.choice([str(v), quotient(v), rf"{whole}{quotient(part)}"]), render, v, near, extra)


def whole(rng: random.Random) -> Case:
    """The right answer is the whole part of a mixed number, its fraction, or the like."""
    n, part = rng.randint(2, 30), proper(rng, (3, 4, 5, 8))
    v = n + part
    texts = [
        f"{n} {part}",
        f"{n} {part} metres long",
        rf"{n} {quotient(part)}",
        rf"{n}{quotient(part, 'dfrac')}",
    ]
    texts += [f"{n}{VULGAR[part.numerator, part.denominator]}", f"{v}", rounded(v, 7)]
    return case(
        rng, str(n), lambda w: [str(w), f"{w} metres", f"{w}.0"], n, [n + 1], [(text, v) for text in texts]
    )


def percent(rng: random.Random) -> Case:
    v = rng.choice([Fraction(rng.randint(2, 99)), Fraction(2 * rng.randint(1, 180) + 1, 2)])

    def render(w: Fraction) -> list[str]:
        n = plain(w)
        return [
            rf"{n}\%",
            f"{n}%",
            f"{n} percent",
            rf"{n} \%",
            rf"{n}\text{{ percent}}",
            f"{n} %",
            f"{n} per cent",
        ]

    extra: list[Form] = [(plain(w), w) for w in (v, v / 100, v / 10, v / 1000, v + 1)] + [
        (quotient(v / 100), v / 100)
    ]
    near = [v + 1, v / 10, v * 10, 100 - v]
    gold = rng.choice([rf"{plain(v)}\%", f"{plain(v)}%"])
    return case(rng, gold, render, v, near, extra, measure=lambda w: w / 100, also=[v])


def share(rng: random.Random) -> Case:
    """A bare number between 0 and 1, which a percentage states as well."""
    v = Fraction(rng.randint(2, 98), 100)

    def render(w: Fraction) -> list[str]:
        n = plain(w * 100)
        return [plain(w), plain(w).lstrip("0"), rf"{n}\%", f"{n}%", f"{n} percent", quotient(w)]

    extra: list[Form] = [(plain(v * w), v * w) for w in (100, 10)] + [(plain(v) + r"\%", v / 100)]
    return case(rng, plain(v), render, v, [v + Fraction(1, 100), v / 10, 1 - v], extra)


def bare(rng: random.Random) -> Case:
    """A bare number of which a hundredth is no answer."""
    v = Fraction(rng.randint(2, 98))
    extra: list[Form] = [(plain(v / 100), v / 100), (quotient(v / 100), v / 100), (plain(v / 10), v / 10)]
    return case(
        rng,
        plain(v),
        lambda w: [plain(w), f"{plain(w)} points", f"{plain(w)}.0"],
        v,
        [v + 1, v * 100],
        extra,
        named=True,
    )


def money(rng: random.Random) -> Case:
    v = Fraction(rng.choice([rng.randint(2, 99), rng.randint(1000, 9999)]))
    v += rng.choice([Fraction(0), Fraction(rng.randint(1, 99), 100)])

    def render(w: Fraction) -> list[str]:
        cents = f"{float(w):,.2f}"
        n = f"{int(w):,}" if w.denominator == 1 else cents
        return [
            rf"\${n}",
            f"${n}",
            f"{n} dollars",
            rf"\${cents}",
            rf"{n} \text{{ dollars}}",
            rf"\${n} per week",
        ]

    near = [v + 1, v * 10, v / 10 if (v * 10).denominator == 1 else v * 100, v + 100]
    gold = rng.choice([f"{float(v):.2f}" if v.denominator > 1 else str(v), rf"\${float(v):.2f}"])
    return case(rng, gold, render, v, near, [(f"{float(v):.2f}", v)])


def scientific(rng: random.Random) -> Case:
    m, e = Fraction(rng.randint(11, 99), 10), rng.choice([-9, -8, -7, -6, -5, 5, 6, 7, 8, 9])

    def render(v: tuple[Fraction, int]) -> list[str]:
        n, k = plain(v[0]), v[1]
        signs = [rf"{n} {sign} 10^{{{k}}}" for sign in (r"\times", r"\cdot")]
        other = [f"{n}e{k}", f"{n} × 10{str(k).translate(HIGH)}", f"{n} x 10^{k}", f"{n}*10^{k}"]
        return [*signs, *other, plain(v[0] * Fraction(10) ** k), rf"{plain(v[0] / 10)} \times 10^{{{k + 1}}}"]

    near = [(m, e + 1), (m, e - 1), (m, -e), (m + Fraction(1, 10), e), (-m, e)]
    gold = rng.choice([render((m, e))[0], plain(m * Fraction(10) ** e)])
    return case(rng, gold, render, (m, e), near, measure=lambda v: v[0] * Fraction(10) ** v[1])


def tiny(rng: random.Random) -> Case:
    b, e = rng.choice([2, 3, 5, 7]), rng.randint(25, 70)

    def render(v: tuple[int, int]) -> list[str]:
        base, k = v
        powers = [
            rf"\frac{{1}}{{{base}^{{{k}}}}}",
            rf"{base}^{{-{k}}}",
            f"1/{base}^{k}",
            rf"\dfrac1{{{base}^{{{k}}}}}",
        ]
        return [*powers, rf"\frac{{1}}{{{base**k}}}", f"{base}{str(-k).translate(HIGH)}"]

    near = [(b, e + 1), (b, e - 1), (b + 1, e), (b, e + 10)]
    extra: list[Form] = [
        ("0", 0),
        (f"{b}^{{{e}}}", Fraction(b) ** e),
        (f"-{b}^{{-{e}}}", -(Fraction(b) ** -e)),
    ]
    return case(
        rng, render((b, e))[0], render, (b, e), near, extra, measure=lambda v: Fraction(v[0]) ** -v[1]
    )


NUMBERS: tuple[Kind, ...] = (
    integer,
    negative,
    power,
    thousands,
    big,
    decimal,
    fraction,
    endless,
    mixed,
    whole,
)
NUMBERS += (percent, share, bare, money, scientific, tiny)
