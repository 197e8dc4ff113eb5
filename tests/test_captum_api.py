"""The adapter to Captum's private functions, compared with values computed by hand."""

import tomllib

import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version

from captum_globenc import captum_api
from pages import ROOT, load_script

OUTPUT = torch.arange(12.0).reshape(2, 3, 2)


@pytest.mark.parametrize(
    ("arguments", "expected"), [(None, [1.0]), ((), [1.0]), (4.0, [1.0, 4.0]), ((4.0, 5.0), [1.0, 4.0, 5.0])]
)
def test_run_forward_passes_inputs_and_then_the_arguments(arguments, expected):
    assert captum_api.run_forward(lambda *given: list(given), 1.0, arguments) == expected
    assert captum_api.run_forward(lambda *given: list(given), (1.0,), arguments) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [((2, 1), [5.0, 11.0]), ([(0, 1), (2, 0)], [1.0, 10.0]), (None, OUTPUT.tolist())],
)
def test_select_targets(target, expected):
    assert captum_api.select_targets(OUTPUT, target).tolist() == expected


def test_expand_target_repeats_the_whole_batch():
    assert captum_api.expand_target([0, 1], 2) == [0, 1, 0, 1]
    assert captum_api.expand_target(torch.tensor([0, 1]), 2).tolist() == [0, 1, 0, 1]
    assert captum_api.expand_target(1, 2) == 1


def test_outputs_have_the_form_of_the_inputs():
    one, other = torch.zeros(1), torch.ones(1)
    assert captum_api.format_inputs(one)[0] is one
    assert captum_api.format_inputs((one, other))[1] is other
    assert captum_api.format_output(one, (other,)) is other
    assert captum_api.format_output((one,), (other,)) == (other,)


def test_arguments_are_a_tuple():
    assert captum_api.format_arguments(None) == ()
    assert captum_api.format_arguments(3) == (3,)
    assert captum_api.format_arguments((3, None)) == (3, None)


def test_the_supported_versions_of_captum_are_those_that_are_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    captum = next(it for it in map(Requirement, project["dependencies"]) if it.name == "captum")
    tested = {Version(corner.captum) for corner in load_script("versions").CORNERS.values()}
    assert all(version in captum.specifier for version in tested)
    newest = max(tested)
    assert f"{newest.major}.{newest.minor + 1}" not in captum.specifier
