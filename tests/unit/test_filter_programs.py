"""Programs of filters say what the evaluator says: the same rows, and an error where it has one.

FILTER_FUZZ_COUNT sets how many predicates a run compares, FILTER_FUZZ_SEED replays a run.
"""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest

from gpu.filter_program import MOST_STEPS, FilterColumn, Op
from server.columns import ColumnView
from server.filters import Filter, FilterError, parse
from tests.filter_interpreter import interpret
from tests.fix_filters import Table, column_view, documented_examples, documented_table, table
from tests.random_filters import COLUMNS, FRACTIONS, N_ROWS, Expressions, Rows

COUNT = int(os.environ.get("FILTER_FUZZ_COUNT", "3000"))
SEED = int(os.environ.get("FILTER_FUZZ_SEED", str(random.SystemRandom().randrange(2**32))))

#: Share of the random predicates, half of which are about arrays, uuids or numeric, that compile.
LEAST_COMPILED = 0.5

Answer = list[int] | str


def by_program(expression: Filter, rows: Table, alive: Any) -> Answer | None:
    """Return what a filter's program keeps, ``error``, or None where it has none."""
    program = expression.program(rows.columns.__getitem__)
    if program is None:
        return None
    columns = {
        name: FilterColumn(v.values, v.valid, v.offsets, v.element_valid)
        for name, v in rows.columns.items()
    }
    found, failed = interpret(program, columns, alive)
    return "error" if failed else np.flatnonzero(found & alive).tolist()


def by_evaluator(expression: Filter, rows: Table, alive: Any) -> Answer:
    """Return what the evaluator keeps of the alive rows, or ``error``."""
    try:
        found = expression.evaluate(rows.columns.__getitem__, len(alive), alive)
    except FilterError:
        return "error"
    return np.flatnonzero(found & alive).tolist()


def with_numeric(text: str) -> bool:
    """Whether a filter computes with numerics, for which 64 bits may be too few in a program."""
    return "numeric" in text or str(2**63) in text or any(part in text for part in FRACTIONS)


def test_a_program_keeps_the_rows_that_the_evaluator_keeps_and_fails_where_it_fails() -> None:
    print(f"FILTER_FUZZ_SEED={SEED} FILTER_FUZZ_COUNT={COUNT}")
    chance = random.Random(SEED)
    expressions = Expressions(chance)
    rows = Table(Rows(chance).views(), range(N_ROWS))
    checked = compiled = failed = 0
    for _ in range(COUNT):
        text = expressions.predicate(3)
        try:
            expression = parse(text, None, COLUMNS)
        except FilterError:
            continue
        checked += 1
        share = chance.choice([0.05, 0.7, 1.0])
        alive = np.array([chance.random() < share for _ in range(N_ROWS)])
        found = by_program(expression, rows, alive)
        if found is not None:
            compiled += 1
            failed += found == "error"
            wanted = by_evaluator(expression, rows, alive)
            assert found == wanted or (found == "error" and with_numeric(text)), text
    print(f"{compiled} of {checked} compiled, {failed} failed")
    assert compiled > LEAST_COMPILED * checked
    assert failed


def test_programs_keep_what_the_page_says() -> None:
    rows, compiled = documented_table(), 0
    for example in documented_examples():
        try:
            expression = parse(example.text, example.params, rows.types)
        except FilterError:
            continue
        found = by_program(expression, rows, np.ones(len(rows.ids), np.bool_))
        if found is None:
            continue
        compiled += 1
        if isinstance(example.expected, str):
            assert found == "error", example.text
        else:
            assert isinstance(found, list), example.text
            assert [rows.ids[row] for row in found] == example.expected, example.text
    assert compiled > 40


ROWS = table(
    i=("int4", [1, 2, None, 4, -5, 2**31 - 1]),
    big=("int8", [0, 2**63 - 1, -(2**63), None, 7, -1]),
    small=("float4", [0.1, 1e-45, None, float("nan"), -0.0, 3e38]),
    f=("float8", [0.5, 1e308, 5e-324, None, float("inf"), -2.5]),
    t=("text", ["a", "B", None, "c", "a", ""]),
    b=("bool", [True, None, False, True, None, False]),
    tags=("text[]", [["a"], [], None, ["a", None], ["b", "a"], ["c"]]),
    sizes=("int4[]", [[1, 2], [None], [], None, [2**31 - 1], [7, 7]]),
)

COMPILED = [
    "i > 1 AND NOT b",
    "i IN (1, 4, NULL)",
    "i BETWEEN 1 AND 4 OR t LIKE '%a%'",
    "upper(t) = 'B' OR length(t) + i > 3",
    "t IS NOT NULL AND i IS DISTINCT FROM 2",
    "CASE WHEN b THEN i ELSE big END > 1",
    "coalesce(t, 'x') = 'x'",
    "coalesce(i, 3) = 3",
    "small + 0.1::float4 > 0.2::float4",
    "small * small >= 0",
    "i / (i - 2) > 0",
    "i <> 2 AND 10 / (i - 2) > 0",
    "big + 1 > 0",
    "big * big > 0",
    "-big > 0",
    "f * 10 > 0",
    "f::float4 > 0",
    "f::int4 = 2",
    "i > 1.5 AND big < 1e30 AND i <> 0.5",
    "i = ANY ('{}')",
    "i < ALL ('{3,9}')",
    "i = ANY (ARRAY[big, 2])",
    "b IS NOT TRUE",
    "i::bool",
    "t IN ('a', 'c') AND small <> 'NaN'",
    "tags && '{a,zz}'",
    "tags @> '{a}' OR tags @> '{a,b}'",
    "tags @> '{a,nobody}' OR tags @> '{}'",
    "tags @> '{a,NULL}'",
    "tags <@ '{a,c}'",
    "'{a,c,NULL}' @> tags",
    "'a' = ANY (tags) AND 'b' <> ALL (tags)",
    "'b' > ANY (tags)",
    "'b' >= ALL (tags)",
    "'a' <> ANY (tags)",
    "cardinality(tags) + cardinality(sizes) > 1",
    "7 = ANY (sizes) OR 2 < ALL (sizes)",
    "9223372036854775807 < ANY (sizes) OR (-9223372036854775808) <= ALL (sizes)",
    "9223372036854775807 <> ALL (sizes)",
    "sizes IS NULL OR tags IS NOT NULL",
    "i * 1.19 > 2.38",
    "(i + 0.5) * -2.5 <= i - 10.25 OR abs(i * 0.1) = 0.5",
    "i::numeric + 1.5 > 3",
]


@pytest.mark.parametrize("text", COMPILED)
def test_it_has_a_program(text: str) -> None:
    expression = parse(text, None, ROWS.types)
    for alive in (np.ones(6, np.bool_), np.array([True, False] * 3), np.zeros(6, np.bool_)):
        found = by_program(expression, ROWS, alive)
        assert found is not None
        assert found == by_evaluator(expression, ROWS, alive)


def test_equal_constants_are_kept_once() -> None:
    program = parse("i = 7 OR i = 7 OR big = 7", None, ROWS.types).program(ROWS.columns.__getitem__)
    assert program is not None
    assert program.data.tolist() == [7]
    assert program.columns == ("i", "big")
    assert program.depth == 3


def test_text_is_looked_up_by_code_whatever_is_done_with_it() -> None:
    text = "lower(t) || '!' LIKE 'b_' OR t > 'b'"
    program = parse(text, None, ROWS.types).program(ROWS.columns.__getitem__)
    assert program is not None
    assert [step.op for step in program.steps] == [Op.LOOK_UP_BIT]


def test_a_word_that_no_row_has_may_be_an_error() -> None:
    known = column_view("text", ["1", "x"])
    view = ColumnView("text", known.valid[:1], known.values[:1], known.dictionary)
    rows = Table({"t": view}, range(1))
    expression = parse("t::int4 = 1", None, rows.types)
    assert expression.program(rows.columns.__getitem__) is None
    assert by_evaluator(expression, rows, np.ones(1, np.bool_)) == [0]


@pytest.mark.parametrize(
    "text",
    [
        " OR ".join(["i = 1"] * MOST_STEPS),
        "+".join(["i"] * 40) + "> 1",
        "1 < " + "(i+" * 20 + "i" + ")" * 20,
    ],
    ids=["long", "wide", "deep"],
)
def test_what_is_too_long_or_too_deep_has_no_program_or_a_right_one(text: str) -> None:
    expression = parse(text, None, ROWS.types)
    alive = np.ones(6, np.bool_)
    found = by_program(expression, ROWS, alive)
    assert found is None or found == by_evaluator(expression, ROWS, alive)


def test_numerics_beyond_64_bits_are_the_evaluators() -> None:
    expression = parse("big * 1.5 > 0", None, ROWS.types)
    alive = np.ones(6, np.bool_)
    assert by_program(expression, ROWS, alive) == "error"
    assert by_evaluator(expression, ROWS, alive) == [1, 4]
    alive[1:3] = False
    assert by_program(expression, ROWS, alive) == by_evaluator(expression, ROWS, alive) == [4]
