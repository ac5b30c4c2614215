"""A module list that knows the type of its items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from torch import nn

_Module = TypeVar("_Module", bound=nn.Module)


class TypedModuleList(nn.ModuleList, Generic[_Module]):
    """``nn.ModuleList`` whose items have a static type. Names of parameters are those of a plain list."""

    if TYPE_CHECKING:

        def __init__(self, modules: Iterable[_Module] | None = None) -> None: ...

        @overload
        def __getitem__(self, idx: slice) -> TypedModuleList[_Module]: ...

        @overload
        def __getitem__(self, idx: int) -> _Module: ...

        def __getitem__(self, idx: int | slice) -> _Module | TypedModuleList[_Module]: ...

        def __iter__(self) -> Iterator[_Module]: ...
