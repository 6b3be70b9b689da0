"""Every example of docs/filters.md does what the page says."""

from __future__ import annotations

import pytest

from server.filters import FilterError
from tests.fix_filters import Example, documented_examples, documented_table

EXAMPLES = documented_examples()


def test_the_page_has_examples_and_rows() -> None:
    assert len(EXAMPLES) > 50
    assert list(documented_table().ids) == [1, 2, 3, 4]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.text)
def test_example_of_the_page(example: Example) -> None:
    if isinstance(example.expected, str):
        with pytest.raises(FilterError) as caught:
            documented_table().keep(example.text, example.params)
        assert caught.value.sqlstate == example.expected
    else:
        assert documented_table().keep(example.text, example.params) == example.expected
