from collections.abc import Callable
from typing import TypeVar, overload

_First = TypeVar("_First")
_Second = TypeVar("_Second")
_Third = TypeVar("_Third")
_Result = TypeVar("_Result")

@overload
def bound(
    call: Callable[[_First, _Second, _Third], object], second: _Second, third: _Third
) -> Callable[[_First], None]: ...
@overload
def bound(
    call: Callable[[_First, _Second, _Third], object],
    second: _Second,
    third: _Third,
    *,
    result: _Result,
    explained: Callable[[Exception, _First], Exception] | None = None,
) -> Callable[[_First], _Result]: ...
