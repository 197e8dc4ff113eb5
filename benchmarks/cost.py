"""What an attribution costs, in forward passes and in memory, measured side by side in one run.

Each round runs every subject once, so that what disturbs the machine disturbs all alike; the figures
are medians over rounds, as ratios to the median forward pass with SDPA. Peak memory is read in a
process of its own for each subject, as the growth of the resident set over what stood before.

    python benchmarks/cost.py [--rounds 9] [--shape 1x128 ...] [--skip integrated-gradients ...]
"""

import argparse
import copy
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from captum.attr import LayerIntegratedGradients
from materializing import materialized_globenc
from transformers import BertConfig, BertForSequenceClassification

from captum_globenc import EncoderForward, GlobEnc

SHAPES = ((1, 32), (1, 128), (1, 512), (8, 128))
