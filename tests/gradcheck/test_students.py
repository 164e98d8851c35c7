"""The mistakes of students are found, and told so that they can be mended."""

import re

import pytest
from support.selection import choose
from support.students import STUDENTS

from jaxann import check_function


@pytest.mark.parametrize("name", choose(STUDENTS, 3))
def test_a_mistake_is_found_and_told(name):
    mistake = STUDENTS[name]
    report = check_function(mistake.forward, mistake.backward, *mistake.args)
    assert report.wrong == mistake.wrong, f"\n{report}"
    for path in report.wrong:
        assert re.search(mistake.told, report[path].diagnosis), report[path].diagnosis
