"""A call of which all arguments but the first are known."""

from __future__ import annotations

import pytest

from shmbench.native.bound import bound


def fail(first: object, second: object, third: object) -> None:
    raise KeyError(first, second, third)


def explained(error: Exception, first: object) -> Exception:
    return ValueError(f"{first} after {error.args}")


def test_the_rest_follows_the_first() -> None:
    seen = []
    call = bound(lambda *args: seen.append(args), 2, 3, result=4)
    assert call(1) == 4
    assert seen == [(1, 2, 3)]


def test_what_the_call_gives_is_not_the_result() -> None:
    assert bound(lambda *args: args, 2, 3)(1) is None


def test_an_exception_is_left_as_it_is() -> None:
    with pytest.raises(KeyError) as raised:
        bound(fail, 2, 3)(1)
    assert raised.value.args == (1, 2, 3)


def test_an_exception_is_explained_and_kept_as_the_cause() -> None:
    with pytest.raises(ValueError, match="1 after") as raised:
        bound(fail, 2, 3, explained=explained)(1)
    assert isinstance(raised.value.__cause__, KeyError)
