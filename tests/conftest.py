"""Models and batches that several test modules need."""

import importlib
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification
from transformers import BertModel as Bert
from transformers.utils.logging import disable_progress_bar

import browser
from captum_globenc.app.cli import main
from checkpoints import save_classifier
from models import SMALL, randomize
from pages import ROOT

# The models are so small that threads cost more than they give, the more so on a busy machine.
torch.set_num_threads(1)
# Nor should their saving draw bars among what tests read of standard error.
disable_progress_bar()


@pytest.fixture(scope="module")
def chromium():
    """A browser, for which a busy machine may take a minute."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=browser.chromium(), args=list(browser.ARGUMENTS), timeout=60_000
        )


@pytest.fixture
def bench(monkeypatch):
    """Import modules of benchmarks/ and scripts/, as their own scripts do."""
    for folder in ("benchmarks", "scripts"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    return importlib.import_module


@pytest.fixture
def classifier():
    """A BERT classifier of three labels, float64."""
    return randomize(BertForSequenceClassification(BertConfig(**SMALL, num_labels=3)).double())


@pytest.fixture
def tagger():
    """A BERT token classifier of five labels, float64."""
    return randomize(BertForTokenClassification(BertConfig(**SMALL, num_labels=5)).double())


@pytest.fixture
def bare():
    """A BERT without a head, float64."""
    return randomize(Bert(BertConfig(**SMALL)).double())


@pytest.fixture
def batch():
    """Three texts of 9, 6 and 4 tokens, padded on the right."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 60, (3, 9), generator=generator)
    mask = torch.arange(9) < torch.tensor([[9], [6], [4]])
    return {"input_ids": ids * mask, "attention_mask": mask.long(), "token_type_ids": torch.zeros_like(ids)}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The folder of a tiny classifier, as a string."""
    return str(save_classifier(tmp_path_factory.mktemp("classifier")))


@pytest.fixture
def run(capsys):
    """Run a command in this process: its status, and what it wrote to either stream."""

    def run(*arguments, status=0):
        answer = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert answer == status, captured.err
        return captured.out, captured.err

    return run


@pytest.fixture
def failing(run):
    """Run a command that has to fail, in one line; return the line."""

    def failing(*arguments):
        out, err = run(*arguments, status=2)
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return failing


def pytest_addoption(parser):
    parser.addoption(
        "--require-browser",
        action="store_true",
        help="fail where the tests that look at a page in Chromium cannot run, instead of deselecting them",
    )
    parser.addoption(
        "--device",
        help="the device of tests/gpu, such as cuda, with all models; by default the CPU with a few of them",
    )


def pytest_collection_modifyitems(config, items):
    """Leave the tests marked `browser` out where there is no browser, unless one is required."""
    lacking = browser.missing()
    if not lacking:
        return
    left_out = [item for item in items if item.get_closest_marker("browser")]
    if left_out and config.getoption("--require-browser"):
        raise pytest.UsageError(f"--require-browser: the tests marked browser need {lacking}")
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def pytest_report_header(config):
    lacking = browser.missing()
    return f"browser tests: {f'deselected, for want of {lacking}' if lacking else browser.chromium()}"
