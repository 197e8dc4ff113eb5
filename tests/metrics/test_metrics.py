"""Faithfulness and perturbation metrics: cases computed by hand, and models with a known best order."""

import math

import pytest
import torch
from captum.attr import FeatureAblation
from captum.metrics import infidelity, sensitivity_max
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_globenc import EncoderForward, GlobEnc
from captum_globenc.metrics import (
    REMOVALS,
    accuracy,
    aopc,
    comprehensiveness,
    infidelity_perturbation,
    log_odds,
    outputs_without,
    removal_curve,
    sensitivity_perturbation,
    sufficiency,
)

IDS = torch.tensor([[1, 4, 2, 8, 3]])
SCORES = torch.tensor([[0.1, 0.4, 0.2, 0.8, 0.3]])
MASK_ID = 3


def additive(ids, attention_mask=None, *_):
    """The sum of the ids that attention sees: removing token t takes exactly t away."""
    mask = torch.ones_like(ids) if attention_mask is None else attention_mask
    return (ids * mask).sum(1, keepdim=True).double()


def two_classes(ids, *_):
    """Logits log(sum) and 0: the probability of class 0 is sum / (sum + 1)."""
    return torch.stack([ids.sum(1).double().log(), torch.zeros(len(ids), dtype=torch.double)], dim=1)


def identity(output):
    return output


RAW = {"baselines": 0, "activation": identity}


@pytest.mark.parametrize(
    ("metric", "options", "expected"),
    [
        # Most important first the sums are 18, 10, 6, 3, 1, 0; least important first 18, 17, 15, 12, 8, 0.
        # The tops alone are 8, 12, 15, 17, 18.
        (comprehensiveness, {"fractions": (0.2,)}, 8),
        (comprehensiveness, {"fractions": (0.2, 0.4, 1.0)}, (8 + 12 + 18) / 3),
        (comprehensiveness, {}, (8 + 8 + 8 + 8 + 15) / 5),  # 1, 1, 1, 1 and 3 tokens
        (sufficiency, {"fractions": (0.2, 0.6)}, (10 + 3) / 2),
        (aopc, {"steps": 1}, 8 / 2),
        (aopc, {"steps": 3}, (8 + 12 + 15) / 4),
        (aopc, {"steps": 9}, (8 + 12 + 15 + 17 + 18) / 6),
        (aopc, {"steps": 3, "order": "least"}, (1 + 3 + 6) / 4),
    ],
)
def test_values_worked_out_by_hand(metric, options, expected):
    value = metric(additive, IDS, SCORES, **RAW, **options)
    assert value.tolist() == [pytest.approx(expected)]


def test_probabilities_worked_out_by_hand():
    call = (two_classes, IDS, SCORES, 0)
    assert comprehensiveness(*call, target=0, fractions=(0.2,)).item() == pytest.approx(18 / 19 - 10 / 11)
    assert comprehensiveness(*call, target=1, fractions=(0.2,)).item() == pytest.approx(1 / 19 - 1 / 11)
    assert log_odds(*call, target=0, fractions=(0.2, 0.4)).item() == pytest.approx(
        (math.log((10 / 11) / (18 / 19)) + math.log((6 / 7) / (18 / 19))) / 2
    )
    # After 1 to 5 tokens class 0 has the odds 10, 6, 3, 1 and 0 to 1.
    fractions = (0.2, 0.4, 0.6, 1.0)
    assert accuracy(*call, target=0, fractions=fractions).item() == pytest.approx(3 / 4)
    assert accuracy(*call, target=1, fractions=fractions).item() == pytest.approx(1 / 4)


def test_the_predicted_class_is_the_default_target():
    for metric in (comprehensiveness, sufficiency, aopc, log_odds, accuracy):
        chosen = metric(two_classes, IDS, SCORES, 0)
        assert torch.equal(chosen, metric(two_classes, IDS, SCORES, 0, target=0))
        assert torch.equal(chosen, metric(two_classes, IDS, SCORES, 0, target=torch.tensor([0])))


def test_tokens_outside_of_the_mask_stay_and_do_not_count():
    mask = torch.tensor([[True, True, True, False, False]])
    curve = removal_curve(additive, IDS, SCORES, torch.tensor([[1, 2, 3, 4]]), **RAW, mask=mask)
    assert curve.tolist() == [[18, 14, 12, 11, 11]]
    assert aopc(additive, IDS, SCORES, steps=10, **RAW, mask=mask).item() == pytest.approx((4 + 6 + 7) / 4)
    assert sufficiency(additive, IDS, SCORES, fractions=(1 / 3,), **RAW, mask=mask).item() == 3
    nothing = torch.zeros_like(mask)
    for metric in (comprehensiveness, sufficiency, aopc):
        assert metric(additive, IDS, SCORES, **RAW, mask=nothing).isnan().tolist() == [True]


def test_of_equal_scores_the_first_is_the_higher():
    counts = torch.tensor([[1, 2]])
    even = torch.ones_like(SCORES)
    curve = {
        order: removal_curve(additive, IDS, even, counts, order=order, **RAW).tolist()[0]
        for order in ("most", "least", "others")
    }
    assert curve == {"most": [18, 17, 13], "least": [18, 15, 7], "others": [18, 1, 5]}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=2, max_size=9), st.randoms(use_true_random=False))
def test_leave_one_out_is_the_best_order_for_an_additive_model(weights, random):
    ids = torch.tensor([weights])
    ablation = FeatureAblation(lambda ids: additive(ids)[:, 0]).attribute(ids)
    other = ablation[:, random.sample(range(len(weights)), len(weights))]
    best, worse = (
        {
            "comprehensiveness": comprehensiveness(additive, ids, scores, **RAW).item(),
            "sufficiency": -sufficiency(additive, ids, scores, **RAW).item(),
            "aopc most": aopc(additive, ids, scores, **RAW).item(),
            "aopc least": -aopc(additive, ids, scores, order="least", **RAW).item(),
        }
        for scores in (ablation, other)
    )
    assert all(best[name] >= worse[name] - 1e-12 for name in best)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(1, 4), st.integers(0, 99))
def test_batches_and_their_size_change_nothing(batch, tokens, size, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 9, (batch, tokens), generator=generator)
    scores = torch.rand(batch, tokens, generator=generator)
    mask = torch.rand(batch, tokens, generator=generator) < 0.7
    for metric in (comprehensiveness, sufficiency, aopc, log_odds, accuracy):
        together = metric(two_classes, ids, scores, 0, target=0, mask=mask | (scores > 0.9))
        for options in ({}, {"max_examples_per_batch": size}):
            alone = [
                metric(
                    two_classes,
                    ids[i : i + 1],
                    scores[i : i + 1],
                    0,
                    target=[0],
                    mask=(mask | (scores > 0.9))[i : i + 1],
                    **options,
                )
                for i in range(batch)
            ]
            assert torch.equal(together.isnan(), ~(mask | (scores > 0.9)).any(dim=1))
            assert torch.equal(together.nan_to_num(), torch.cat(alone).nan_to_num())


def test_half_precision_outputs_are_compared_in_single():
    ids, scores = torch.tensor([[4, 5, 6, 7, 2]]), torch.tensor([[0.5, 0.4, 0.3, 0.2, 0.1]])

    def logits(dtype):
        return lambda ids: torch.stack([ids.sum(1) / 1.5, ids.sum(1) * 0], dim=1).to(dtype)

    for metric in (comprehensiveness, sufficiency, aopc, log_odds):
        half, single = (metric(logits(d), ids, scores, 0, target=1) for d in (torch.half, torch.float))
        assert half.dtype == torch.float32
        assert half.item() == pytest.approx(single.item(), rel=1e-2)
        assert single.item() != 0


def test_a_baseline_that_broadcasts_is_the_same_for_all_texts():
    ids = torch.arange(16).reshape(4, 4) + 20
    baselines = torch.tensor([10, 11, 12, 13])  # as long as the batch
    gone = torch.eye(4).bool()[:, None]
    expected = torch.where(gone[:, 0], baselines, ids)
    for size in (None, 1, 4):
        outputs = outputs_without(lambda ids: ids, ids, gone, baselines, max_examples_per_batch=size)
        assert torch.equal(outputs[:, 0], expected)


def test_targets_count_from_the_end_as_captums_do():
    for metric in (comprehensiveness, accuracy):
        first, last = (metric(two_classes, IDS, SCORES, 0, target=target) for target in (0, -2))
        assert torch.equal(first, last)


def test_outputs_that_are_nan_are_rejected():
    with pytest.raises(ValueError, match="NaN"):
        accuracy(lambda ids: two_classes(ids) * torch.nan, IDS, SCORES, 0, target=0)


@pytest.fixture
def setting(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    return forward, inputs, extra


def test_one_token_at_a_time_is_what_feature_ablation_does(setting):
    forward, inputs, extra = setting
    gone = torch.eye(inputs.shape[1], dtype=torch.bool).expand(len(inputs), -1, -1)
    outputs = outputs_without(forward, inputs, gone, MASK_ID, extra)[:, :, 1]
    ablation = FeatureAblation(forward).attribute(
        inputs, baselines=MASK_ID, target=1, additional_forward_args=extra
    )
    assert torch.allclose(forward(inputs, *extra)[:, 1:2] - outputs, ablation)


def test_deletion_equals_the_shorter_text(setting):
    forward, inputs, extra = setting
    gone = torch.zeros(3, 1, 9, dtype=torch.bool)
    gone[0, 0, [1, 4]] = gone[1, 0, 2] = gone[2, 0, [0, 1, 3]] = True
    outputs = outputs_without(forward, inputs, gone, 0, extra, removal="delete")
    for text, (lacking, attended) in enumerate(zip(gone[:, 0], extra[0].bool(), strict=True)):
        ids = inputs[text][attended & ~lacking][None]
        assert torch.allclose(outputs[text], forward(ids, torch.ones_like(ids)))


def test_deletion_moves_the_other_arguments_along():
    seen = []

    def forward(ids, attention_mask, types, scale):
        seen.append((ids, attention_mask, types, scale))
        return ids.double()

    gone = torch.tensor([[[False, True, False, False, True]]])
    types = torch.tensor([[5, 6, 7, 8, 9]])
    outputs_without(forward, IDS, gone, 0, (None, types, 2.0), removal="delete")
    ids, attention_mask, moved, scale = seen[0]
    assert ids.tolist() == [[1, 2, 8, 0, 0]]
    assert attention_mask.tolist() == [[1, 1, 1, 0, 0]]
    assert moved.tolist() == [[5, 7, 8, 6, 9]]
    assert scale == 2.0


def test_padding_out_equals_a_hole_in_the_attention_mask(setting):
    forward, inputs, extra = setting
    gone = torch.zeros(3, 1, 9, dtype=torch.bool)
    gone[:, 0, 2] = True
    outputs = outputs_without(forward, inputs, gone, None, extra, removal="pad")
    holed = extra[0].clone()
    holed[:, 2] = 0
    assert torch.equal(outputs[:, 0], forward(inputs, holed, extra[1]))
    # What stands in a hole that nothing sees is no matter.
    assert torch.allclose(outputs, outputs_without(forward, inputs, gone, 7, extra, removal="pad"))


@pytest.mark.parametrize("removal", REMOVALS)
def test_embeddings_are_removed_as_ids_are(setting, classifier, removal):
    forward, inputs, extra = setting
    words = classifier.get_input_embeddings()
    embeddings = words(inputs).detach()
    blank = words(torch.tensor([[MASK_ID]])).detach().expand(1, 9, -1)
    scores = GlobEnc(forward).attribute(embeddings, 1, extra)
    mask = extra[0].bool()
    by_ids = comprehensiveness(
        forward, inputs, scores.sum(2), MASK_ID, extra, 1, mask=mask, removal=removal, fractions=(0.3, 0.6)
    )
    by_embeddings = comprehensiveness(
        forward,
        (embeddings,),
        (scores,),
        (blank,),
        extra,
        1,
        mask=mask,
        removal=removal,
        fractions=(0.3, 0.6),
    )
    assert torch.allclose(by_ids, by_embeddings)
    assert (by_ids != 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"removal": "erase"}, "choose from mask, delete, pad"),
        ({"removal": "delete"}, "attention mask"),
        ({"removal": "pad", "additional_forward_args": torch.ones(1, 4)}, "attention mask"),
        ({"baselines": None}, "needs baselines"),
        ({"fractions": (0.5, 1.1)}, r"in \(0, 1\]"),
        ({"fractions": ()}, r"in \(0, 1\]"),
        ({"mask": torch.ones(1, 4)}, "mask is"),
        ({"attributions": torch.ones(1, 4)}, "attributions .* do not fit inputs"),
        ({"attributions": SCORES * math.nan}, "cannot be ranked"),
        ({"inputs": (IDS, IDS)}, "tuple of 2"),
        ({"forward_func": lambda ids: additive(ids)[:1]}, "for a batch of"),
        ({"forward_func": lambda ids: ids[:, :, None].double()}, "need a target"),
    ],
)
def test_wrong_arguments_are_rejected(options, message):
    call = {"forward_func": additive, "inputs": IDS, "attributions": SCORES, **RAW, **options}
    with pytest.raises(ValueError, match=message):
        comprehensiveness(**call)


def test_more_wrong_arguments_are_rejected():
    with pytest.raises(ValueError, match="order"):
        aopc(additive, IDS, SCORES, **RAW, order="middle")
    with pytest.raises(ValueError, match="at least 1"):
        aopc(additive, IDS, SCORES, **RAW, steps=0)
    with pytest.raises(ValueError, match="C > 1"):
        accuracy(additive, IDS, SCORES, **RAW, target=0)
    with pytest.raises(ValueError, match="negative"):
        log_odds(lambda ids: -additive(ids), IDS, SCORES, **RAW)
    with pytest.raises(ValueError, match="gone is"):
        outputs_without(additive, IDS, torch.ones(1, 5).bool(), 0)


@pytest.mark.parametrize("metric", [comprehensiveness, sufficiency, aopc, log_odds, accuracy])
def test_a_bad_target_raises_what_captum_raises(metric):
    ids, scores = IDS.expand(2, -1), SCORES.expand(2, -1)
    with pytest.raises(IndexError):
        metric(two_classes, ids, scores, 0, target=5)
    with pytest.raises(AssertionError):
        metric(two_classes, ids, scores, 0, target=[0, 0, 0])


def test_infidelity_is_zero_for_the_weights_of_an_additive_model():
    perturb = infidelity_perturbation(baseline=0, fraction=0.5)
    torch.manual_seed(0)
    ids = torch.randint(1, 9, (4, 7))
    call = {"perturb_func": perturb, "inputs": ids, "n_perturb_samples": 6}
    assert infidelity(lambda ids: additive(ids)[:, 0], attributions=ids.float(), **call).max() < 1e-9
    assert infidelity(lambda ids: additive(ids)[:, 0], attributions=ids.float() + 1, **call).min() > 1


def test_infidelity_of_globenc_over_ids(setting):
    forward, inputs, extra = setting
    scores = GlobEnc(forward).attribute(inputs, 1, extra)
    perturb = infidelity_perturbation(MASK_ID, keep=[0])
    torch.manual_seed(0)
    value = infidelity(forward, perturb, inputs, scores, None, extra, 1, n_perturb_samples=1, normalize=True)
    # One sample, normalized: beta I.phi equals the change exactly.
    assert torch.allclose(value, torch.zeros(3, dtype=value.dtype), atol=1e-12)


def test_perturbations_keep_the_given_ids_and_replace_the_fraction():
    ids = torch.tensor([[2, 7, 8, 9, 10, 11, 3], [2, 7, 8, 3, 0, 0, 0]])
    keep = torch.isin(ids, torch.tensor([0, 2, 3]))
    generator = torch.Generator().manual_seed(0)
    perturb = infidelity_perturbation(4, keep=(0, 2, 3), fraction=0.4, generator=generator)
    replace = sensitivity_perturbation((20, 21), keep=(0, 2, 3), fraction=0.4, generator=generator)
    where = torch.stack([perturb(ids)[0] for _ in range(40)])
    assert where.sum(2).unique(dim=0).tolist() == [[2, 1]]
    assert torch.equal(where.sum(0) > 0, ~keep)
    drawn = torch.stack([replace((ids,))[0] for _ in range(40)])
    assert set(drawn[drawn != ids].tolist()) == {20, 21}
    assert ((drawn != ids).sum(2) == torch.tensor([2, 1])).all()


def test_sensitivity_max_over_ids_measures_the_change_of_the_scores(setting):
    forward, inputs, extra = setting
    globenc = GlobEnc(forward)
    perturb = sensitivity_perturbation([MASK_ID], keep=[0], generator=torch.Generator().manual_seed(5))
    value = sensitivity_max(
        globenc.attribute, inputs, perturb, n_perturb_samples=1, target=1, additional_forward_args=extra
    )
    again = sensitivity_perturbation([MASK_ID], keep=[0], generator=torch.Generator().manual_seed(5))
    scores, changed = (globenc.attribute(ids, 1, extra) for ids in (inputs, again(inputs)[0]))
    assert torch.allclose(value, (scores - changed).norm(dim=1) / scores.norm(dim=1))


@pytest.mark.parametrize("fraction", [0, 1.5])
def test_perturbations_reject_impossible_fractions(fraction):
    with pytest.raises(ValueError, match="fraction"):
        infidelity_perturbation(4, fraction=fraction)
    with pytest.raises(ValueError, match="fraction"):
        sensitivity_perturbation([4], fraction=fraction)
    with pytest.raises(ValueError, match="candidates"):
        sensitivity_perturbation([])
