"""The exceptions of the package: one base class, and their built-in base classes."""

import importlib
import inspect
import pkgutil

import pytest

import captum_globenc
from captum_globenc import errors

BUILTIN = {
    "UnsupportedModelError": ValueError,
    "UnsupportedOperationError": ValueError,
    "NoLayersError": ValueError,
    "NoPositionError": ValueError,
    "RecordingError": RuntimeError,
    "ReconstructionError": RuntimeError,
    "PrecisionError": RuntimeError,
    "LoadingError": Exception,
    "FileFormatError": ValueError,
    "EngineError": Exception,
    "CaptumGlobencError": Exception,
    "PrecisionWarning": UserWarning,
}


def exceptions():
    """The exception classes that modules define; one with an underscore never leaves its module."""
    found = set()
    for info in pkgutil.walk_packages(captum_globenc.__path__, "captum_globenc."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        found |= {
            it
            for it in vars(module).values()
            if inspect.isclass(it) and issubclass(it, Exception)
            if it.__module__ == info.name and not it.__name__.startswith("_")
        }
    return found


def test_every_exception_derives_from_the_base():
    found = exceptions()
    assert {it for it in found if not issubclass(it, (errors.CaptumGlobencError, Warning))} == set()
    assert len(found) > len(BUILTIN) - 1


def test_public_exceptions_are_defined_in_one_module():
    # A CommandError is how commands of the command line end; nobody catches it but the command line.
    elsewhere = {it.__name__ for it in exceptions() if it.__module__ != errors.__name__}
    assert elsewhere == {"CommandError"}
    assert set(errors.__all__) == set(BUILTIN)


@pytest.mark.parametrize(("name", "builtin"), BUILTIN.items())
def test_exceptions_are_caught_by_the_built_in_class(name, builtin):
    assert issubclass(getattr(errors, name), builtin)


def test_earlier_names_are_the_same_classes():
    from captum_globenc.attr.proof import ProofError
    from captum_globenc.datasets.engines import EngineError
    from captum_globenc.differences import NotComparableError
    from captum_globenc.encoders import UnsupportedEncoderError
    from captum_globenc.results.files import FileFormatError
    from captum_globenc.texts.loading import LoadingError

    assert UnsupportedEncoderError is errors.UnsupportedModelError
    assert NotComparableError is errors.UnsupportedOperationError
    assert ProofError is errors.ReconstructionError
    assert (LoadingError, FileFormatError, EngineError) == (
        errors.LoadingError,
        errors.FileFormatError,
        errors.EngineError,
    )


def test_errors_are_reached_from_the_package():
    assert captum_globenc.errors is errors
