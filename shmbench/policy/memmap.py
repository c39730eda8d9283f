"""numpy.memmap with a policy behind it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from shmbench.policy.backing import buffer
from shmbench.policy.mapping import Mapping, Policy
from shmbench.policy.watch import Watch


class PolicyMemmap(np.memmap[Any, Any]):
    """A numpy.memmap; `mapping` is the policy's Mapping over its bytes.

    Views of it share the mapping. It ends with the last of them.
    """

    mapping: Mapping | None

    def __array_finalize__(self, obj: Any) -> None:
        super().__array_finalize__(obj)
        self.mapping = getattr(obj, "mapping", None)


def memmap(
    filename: Any,
    dtype: Any = np.uint8,
    mode: Literal["r+", "r", "w+", "c"] = "r+",
    offset: int = 0,
    shape: int | tuple[int, ...] | None = None,
    order: Literal["C", "F"] = "C",
    *,
    hint: Policy = "auto",
    watch: Watch = True,
) -> PolicyMemmap:
    """What numpy.memmap takes and gives.

    Args:
        filename: as for numpy.memmap, as are dtype, mode, offset, shape and order.
        dtype: of an element.
        mode: "r", "r+", "w+" or "c".
        offset: in bytes.
        shape: None: the whole file.
        order: of the dimensions.
        hint: as for `open`. The kernel's hints act on plain indexing; "auto" through `watch`.
        watch: see the accesses by plain indexing; as for `open`.

    Raises:
        OSError: with the path.
    """
    array = PolicyMemmap(filename, dtype=dtype, mode=mode, offset=offset, shape=shape, order=order)
    # The bytes as they lie in memory, whatever their order.
    flat = np.ndarray(
        array.nbytes, np.uint8, array.ravel(order="K").view(np.ndarray).data.cast("B")
    )
    array.mapping = Mapping(buffer(flat), hint=hint, watch=watch)
    return array
