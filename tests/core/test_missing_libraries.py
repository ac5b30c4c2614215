from __future__ import annotations

import pytest

from hrt_mm.core.extras import MissingLibrary, is_installed, libraries, module_of, needs_extra


def test_a_library_that_is_not_installed_is_named_as_pip_knows_it() -> None:
    with (
        pytest.raises(MissingLibrary, match=r"^scikit-learn is not installed: pip install 'hrt-mm\[vision\]'$"),
        needs_extra("vision"),
    ):
        raise ModuleNotFoundError("No module named 'sklearn.datasets'", name="sklearn.datasets")
    message = r"^an index of kind graph needs faiss-cpu, which is not installed: pip install 'hrt-mm\[retrieval\]'$"
    with pytest.raises(MissingLibrary, match=message), needs_extra("retrieval", "an index of kind graph"):
        raise ModuleNotFoundError("No module named 'faiss'", name="faiss")


@pytest.mark.parametrize("error", [OSError("undefined symbol"), ImportError("undefined symbol")])
def test_a_library_that_does_not_load_is_an_error_with_its_cause(error: Exception) -> None:
    with (
        pytest.raises(MissingLibrary, match=r"cannot be loaded \(undefined symbol\): pip install 'hrt-mm\[audio\]'$"),
        needs_extra("audio"),
    ):
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), needs_extra("audio"):
        raise ZeroDivisionError


def test_extras_include_those_of_other_extras_and_leave_out_what_few_machines_have() -> None:
    assert set(libraries("video")) == {"av", "pillow", "scikit-learn"}  # decord is for x86-64
    assert set(libraries("shots")) == {*libraries("video"), "scenedetect", "opencv-python-headless"}
    assert not libraries("nothing")


def test_modules_of_distributions() -> None:
    assert [module_of(name) for name in ("Pillow", "x-transformers", "av")] == ["PIL", "x_transformers", "av"]
    assert is_installed("torch")
    assert not is_installed("no_such_module")
    assert not is_installed("no_such_package.module")
