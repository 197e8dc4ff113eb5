"""GlobEnc: shapes, positions, targets, errors."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    ElectraConfig,
    ElectraForSequenceClassification,
    LongformerConfig,
    LongformerModel,
)

from captum_globenc import EncoderForward, GlobEnc
from captum_globenc.decomposition.aggregation import rollout
from captum_globenc.decomposition.mixing import MIXINGS
from models import SMALL, randomize, state_of


@pytest.fixture
def setting(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    return forward, inputs, extra


def scores_from_matrices(matrices, start):
    rows, _ = rollout(matrices.unbind(1), start[:, None])
    return rows[:, 0] / rows[:, 0].sum(1, keepdim=True)


class TestScores:
    @pytest.mark.parametrize("mixing", MIXINGS)
    def test_are_the_row_of_the_rollout_that_the_head_reads(self, setting, mixing):
        forward, inputs, extra = setting
        globenc = GlobEnc(forward, mixing=mixing)
        start = torch.zeros(3, 9, dtype=torch.float64)
        start[:, 0] = 1
        expected = scores_from_matrices(globenc.mixing_matrices(inputs, extra), start)
        assert torch.allclose(globenc.attribute(inputs, 1, extra), expected, rtol=1e-12)

    def test_sum_to_one_are_not_negative_and_zero_at_padding(self, setting):
        forward, inputs, extra = setting
        scores = GlobEnc(forward).attribute(inputs, 1, extra)
        assert torch.allclose(scores.sum(1), torch.ones(3, dtype=torch.float64))
        assert (scores >= 0).all()
        assert (scores[extra[0] == 0] == 0).all()

    def test_raw_scores_are_normalized_ones_times_a_scale(self, setting):
        forward, inputs, extra = setting
        globenc = GlobEnc(forward)
        raw = globenc.attribute(inputs, 1, extra, normalize=False)
        assert raw.sum() > 100
        normalized = globenc.attribute(inputs, 1, extra)
        assert torch.allclose(raw / raw.sum(1, keepdim=True), normalized)

    def test_embeddings_give_each_token_the_score_that_ids_give(self, setting, classifier):
        forward, inputs, extra = setting
        globenc = GlobEnc(forward)
        embeddings = classifier.bert.embeddings.word_embeddings(inputs).detach()
        scores = globenc.attribute(embeddings, 1, extra)
        assert scores.shape == embeddings.shape
        assert scores.is_contiguous()
        assert torch.allclose(scores.sum(-1), globenc.attribute(inputs, 1, extra))

    def test_embeddings_smaller_than_the_hidden_size(self, batch):
        config = ElectraConfig(**SMALL, embedding_size=10)
        model = randomize(ElectraForSequenceClassification(config))
        forward = EncoderForward(model)
        inputs, extra = forward.arguments(batch)
        embeddings = model.electra.embeddings.word_embeddings(inputs).detach()
        scores = GlobEnc(forward).attribute(embeddings, 1, extra)
        assert scores.shape == (3, 9, 10)
        assert torch.allclose(scores.sum(-1), GlobEnc(forward).attribute(inputs, 1, extra))

    def test_a_tuple_in_is_a_tuple_out(self, setting):
        forward, inputs, extra = setting
        globenc = GlobEnc(forward)
        answer = globenc.attribute((inputs,), 1, extra)
        assert isinstance(answer, tuple)
        assert torch.equal(answer[0], globenc.attribute(inputs, 1, extra))

    def test_dtype_is_float32_for_a_float32_model(self, setting):
        forward, inputs, extra = setting
        double = GlobEnc(forward).attribute(inputs, 1, extra)
        single = GlobEnc(forward.float()).attribute(inputs, 1, extra)
        assert double.dtype == torch.float64
        assert single.dtype == torch.float32
        assert (single - double).abs().max() <= 1e-5 * double.max()

    def test_do_not_depend_on_the_class(self, setting):
        forward, inputs, extra = setting
        globenc = GlobEnc(forward)
        scores = [globenc.attribute(inputs, target, extra) for target in (None, 0, 2, [0, 1, 2])]
        assert all(torch.equal(scores[0], other) for other in scores[1:])

    def test_layers_end_in_the_scores(self, setting):
        forward, inputs, extra = setting
        globenc = GlobEnc(forward)
        layers = globenc.attribute_layers(inputs, 1, extra)
        assert layers.shape == (3, 3, 9)
        assert torch.allclose(layers[:, -1], globenc.attribute(inputs, 1, extra))
        first = globenc.mixing_matrices(inputs, extra)[:, 0, 0]
        assert torch.allclose(layers[:, 0], first / first.sum(1, keepdim=True))

    def test_a_deep_model_does_not_overflow(self):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=60, hidden_size=64, num_hidden_layers=48, num_attention_heads=4, intermediate_size=128
        )
        model = BertForSequenceClassification(config).eval()
        ids = torch.randint(5, 60, (2, 20))
        globenc = GlobEnc(EncoderForward(model))
        scores = globenc.attribute(ids, 1)
        assert torch.isfinite(scores).all()
        assert (scores > 0).all()
        assert torch.allclose(scores.sum(1), torch.ones(2))
        model.double()
        assert torch.allclose(scores.double(), globenc.attribute(ids, 1), rtol=1e-4)

    def test_a_scale_that_cannot_be_represented_raises(self):
        torch.manual_seed(0)
        model = BertForSequenceClassification(BertConfig(**{**SMALL, "num_hidden_layers": 60})).eval()
        with torch.no_grad():
            for layer in model.bert.encoder.layer:
                layer.output.LayerNorm.weight.fill_(10.0)
        globenc = GlobEnc(EncoderForward(model))
        ids = torch.randint(5, 60, (1, 20))
        assert torch.isfinite(globenc.attribute(ids, 1)).all()
        with pytest.raises(OverflowError, match="normalize=True"):
            globenc.attribute(ids, 1, normalize=False)
        model.double()
        assert torch.isfinite(globenc.attribute(ids, 1, normalize=False)).all()

    def test_long_inputs_span_tiles(self, setting):
        forward, _, _ = setting
        ids = torch.randint(5, 60, (2, 131), generator=torch.Generator().manual_seed(0))
        mask = torch.arange(131) < torch.tensor([[131], [70]])
        globenc = GlobEnc(forward)
        together = globenc.attribute(ids, 1, mask.long())
        alone = globenc.attribute(ids[1:, :70], 1)
        assert torch.allclose(together[1:, :70], alone, rtol=1e-10)
        assert (together[1, 70:] == 0).all()


class TestWhereTheEncoderIs:
    def test_a_callable_with_its_model(self, setting, classifier):
        forward, inputs, extra = setting
        expected = GlobEnc(forward).attribute(inputs, 1, extra)

        def function(ids, mask, segments):
            return classifier(ids, attention_mask=mask, token_type_ids=segments).logits.softmax(-1)

        assert torch.equal(GlobEnc(function, classifier).attribute(inputs, 1, extra), expected)
        part = GlobEnc(function, classifier.bert)
        assert torch.equal(part.attribute(inputs, 1, extra, position=0), expected)

    def test_a_wrapper_module_of_the_users_own(self, bare, batch):
        class Wrapper(nn.Module):
            def __init__(self):
                super().__init__()
                self.parts = nn.ModuleDict({"encoder": bare, "head": nn.Linear(24, 2).double()})

            def forward(self, ids, mask):
                states = self.parts["encoder"](ids, attention_mask=mask).last_hidden_state
                return self.parts["head"](states[:, 0])

        wrapper = Wrapper()
        scores = GlobEnc(wrapper).attribute(batch["input_ids"], 0, batch["attention_mask"], position=0)
        direct = GlobEnc(EncoderForward(bare, output="last_hidden_state"), bare)
        expected = direct.attribute(batch["input_ids"], None, batch["attention_mask"])
        assert torch.equal(scores, expected)

    def test_a_bare_model_needs_no_forward_function(self, bare, batch):
        scores = GlobEnc(bare).attribute(batch["input_ids"], additional_forward_args=batch["attention_mask"])
        assert torch.allclose(scores.sum(1), torch.ones(3, dtype=torch.float64))


class TestPosition:
    def test_an_index_for_all_or_one_for_each(self, setting):
        forward, inputs, extra = setting
        globenc = GlobEnc(forward)
        matrices = globenc.mixing_matrices(inputs, extra)
        each = torch.tensor([8, 2, 3])
        start = torch.nn.functional.one_hot(each, 9).double()
        scores = globenc.attribute(inputs, 1, extra, position=each)
        assert torch.allclose(scores, scores_from_matrices(matrices, start))
        for sequence in ([8, 2, 3], (8, 2, 3)):
            assert torch.equal(globenc.attribute(inputs, 1, extra, position=sequence), scores)
        same = globenc.attribute(inputs, 1, extra, position=2)
        assert torch.allclose(same[1], scores[1])

    def test_mean_averages_over_real_tokens(self, setting):
        forward, inputs, extra = setting
        globenc = GlobEnc(forward)
        start = extra[0].double() / extra[0].sum(1, keepdim=True)
        expected = scores_from_matrices(globenc.mixing_matrices(inputs, extra), start)
        assert torch.allclose(globenc.attribute(inputs, 1, extra, position="mean"), expected)

    def test_comes_from_the_target_where_the_output_is_per_token(self, tagger, batch):
        forward = EncoderForward(tagger)
        inputs, extra = forward.arguments(batch)
        globenc = GlobEnc(forward)
        one = globenc.attribute(inputs, (3, 1), extra)
        assert torch.equal(one, globenc.attribute(inputs, None, extra, position=3))
        each = globenc.attribute(inputs, [(8, 1), (5, 0), (3, 4)], extra)
        assert torch.equal(each, globenc.attribute(inputs, None, extra, position=torch.tensor([8, 5, 3])))
        layers = globenc.attribute_layers(inputs, (3, 1), extra)
        assert torch.allclose(layers[:, -1], one)

    def test_comes_from_the_target_of_a_question_answering_head(self, batch):
        model = randomize(BertForQuestionAnswering(BertConfig(**SMALL)).double())
        forward = EncoderForward(model, output="start_logits")
        inputs, extra = forward.arguments(batch)
        globenc = GlobEnc(forward)
        expected = globenc.attribute(inputs, None, extra, position=2)
        assert torch.equal(globenc.attribute(inputs, 2, extra), expected)
        for target in (torch.tensor([2, 2, 2]), torch.tensor([2]), -7):
            assert torch.equal(globenc.attribute(inputs, target, extra), expected)

    @pytest.mark.parametrize("head", [BertForQuestionAnswering, BertForMaskedLM])
    def test_a_per_token_head_pools_nothing(self, head, batch):
        model = randomize(head(BertConfig(**SMALL)).double())
        name = "start_logits" if head is BertForQuestionAnswering else "logits"
        with pytest.raises(ValueError, match="one output per token"):
            GlobEnc(EncoderForward(model, output=name)).attribute(batch["input_ids"])

    @pytest.mark.parametrize(
        ("position", "message"),
        [
            (9, "out of range: tokens are numbered 0 to 8"),
            (-1, "out of range"),
            (torch.tensor([0, 0, 9]), "out of range"),
            (4, "position 4 of example 2 is padding; its real tokens are 0 to 3"),
            (torch.tensor([0, 1]), r"shape \(3,\)"),
            (torch.zeros(3, 1, dtype=torch.long), r"shape \(3,\)"),
            (torch.tensor([0.0, 1.0, 2.0]), "integer tensor"),
            (1.5, "integer tensor"),
            (True, "integer tensor"),
            ("cls", "mean"),
        ],
    )
    def test_a_bad_one_is_a_value_error_that_leaves_the_model_alone(
        self, setting, classifier, position, message
    ):
        forward, inputs, extra = setting
        before = state_of(classifier)
        with pytest.raises(ValueError, match=message):
            GlobEnc(forward).attribute(inputs, 1, extra, position=position)
        assert state_of(classifier) == before

    def test_a_pooled_token_that_is_padding_is_a_value_error(self, setting):
        forward, inputs, _ = setting
        left = torch.tensor([[0] * 2 + [1] * 7] * 3)
        with pytest.raises(ValueError, match="position 0 of example 0 is padding"):
            GlobEnc(forward).attribute(inputs, 1, left)


class TestErrors:
    def test_an_unknown_choice_lists_the_choices(self, classifier):
        with pytest.raises(ValueError, match="N-Foo.*W-FixedRes.*N-Enc"):
            GlobEnc(classifier, mixing="N-Foo")
        with pytest.raises(ValueError, match="average.*rollout"):
            GlobEnc(classifier, aggregation="average")

    def test_a_function_without_a_model(self, classifier):
        with pytest.raises(ValueError, match=r"GlobEnc\(forward_func, model\)"):
            GlobEnc(lambda ids: classifier(ids).logits)

    def test_an_unsupported_model_names_what_was_found_and_what_is_supported(self):
        config = LongformerConfig(**{**SMALL, "num_hidden_layers": 1}, attention_window=4)
        with pytest.raises(ValueError, match="longformer.*bert.*electra"):
            GlobEnc(LongformerModel(config))
        with pytest.raises(ValueError, match="Linear.*bert"):
            GlobEnc(nn.Linear(2, 2))

    def test_a_decoder_is_not_an_encoder(self):
        with pytest.raises(ValueError, match="bert"):
            GlobEnc(BertModel(BertConfig(**SMALL, is_decoder=True)))

    def test_more_than_one_encoder(self, bare):
        pair = nn.ModuleList([bare, BertModel(BertConfig(**SMALL))])
        with pytest.raises(ValueError, match="more than one encoder: BertModel"):
            GlobEnc(lambda ids: ids, pair)

    def test_a_forward_function_that_never_runs_the_encoder(self, classifier, batch):
        with pytest.raises(RuntimeError, match="never ran the encoder"):
            GlobEnc(lambda ids: ids, classifier).attribute(batch["input_ids"])

    def test_a_forward_function_that_runs_the_encoder_twice(self, classifier, batch):
        def twice(ids):
            return classifier(ids).logits + classifier(ids).logits

        before = state_of(classifier)
        with pytest.raises(RuntimeError, match="more than once"):
            GlobEnc(twice, classifier).attribute(batch["input_ids"])
        assert state_of(classifier) == before

    def test_ids_given_as_floats(self, setting):
        forward, inputs, extra = setting
        with pytest.raises(TypeError, match="embeddings"):
            GlobEnc(forward).attribute(inputs.float(), 1, extra)

    def test_several_inputs(self, setting):
        forward, inputs, extra = setting
        with pytest.raises(ValueError, match="additional_forward_args"):
            GlobEnc(forward).attribute((inputs, extra[0]), 1)

    def test_inputs_that_are_not_the_encoders_tokens(self, classifier, batch):
        def first_five(ids):
            return classifier(ids[:, :5]).logits

        with pytest.raises(ValueError, match=r"\(3, 9\).*\(3, 5\)"):
            GlobEnc(first_five, classifier).attribute(batch["input_ids"], 1)

    def test_a_target_out_of_range_or_of_the_wrong_length_is_what_captum_raises(self, setting):
        forward, inputs, extra = setting
        globenc = GlobEnc(forward)
        with pytest.raises(IndexError):
            globenc.attribute(inputs, 3, extra)
        with pytest.raises(AssertionError):
            globenc.attribute(inputs, [0, 1], extra)
        with pytest.raises(AssertionError):
            globenc.attribute(inputs, torch.tensor([0, 1]), extra)

    def test_an_output_object_where_a_tensor_is_needed(self, classifier, batch):
        with pytest.raises(TypeError, match="EncoderForward"):
            GlobEnc(classifier).attribute(batch["input_ids"], target=1)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_nan_or_infinity_names_the_layer(self, setting, classifier, value):
        forward, inputs, extra = setting
        with torch.no_grad():
            classifier.bert.encoder.layer[1].attention.self.value.weight[0, 0] = value
        before = state_of(classifier)
        with pytest.raises(ValueError, match="encoder layer 1"):
            GlobEnc(forward).attribute(inputs, 1, extra)
        assert state_of(classifier) == before

    @pytest.mark.parametrize("mixing", MIXINGS)
    def test_nan_in_the_output_of_the_last_layer_alone(self, setting, classifier, mixing):
        forward, inputs, extra = setting
        with torch.no_grad():
            classifier.bert.encoder.layer[2].output.LayerNorm.bias[0] = np.nan
        with pytest.raises(ValueError, match="layer 2"):
            GlobEnc(forward, mixing=mixing).attribute(inputs, 1, extra)

    def test_an_example_that_is_all_padding(self, setting):
        forward, inputs, extra = setting
        mask = extra[0].clone()
        mask[1] = 0
        for position in ("mean", 0):
            with pytest.raises(ValueError, match="example 1 .*padding"):
                GlobEnc(forward).attribute(inputs, 1, (mask, *extra[1:]), position=position)

    def test_arguments_of_other_methods_are_not_swallowed(self, setting):
        forward, inputs, extra = setting
        with pytest.raises(TypeError, match="baselines"):
            GlobEnc(forward).attribute(inputs, 1, extra, baselines=0)

    def test_modules_that_hooks_cannot_see_into(self, classifier, batch):
        parallel = nn.DataParallel(classifier)
        parallel.device_ids = [0, 1]
        with pytest.raises(ValueError, match="DataParallel.*\\.module"):
            GlobEnc(parallel)
        traced = torch.jit.trace(EncoderForward(classifier.bert, output="pooler_output"), batch["input_ids"])
        with pytest.raises(ValueError, match="traced"):
            GlobEnc(traced)


def test_the_interface_of_a_captum_method(classifier):
    globenc = GlobEnc(classifier)
    assert globenc.get_name() == "GlobEnc"
    assert globenc.multiplies_by_inputs is False
    assert globenc.has_convergence_delta() is False
    assert globenc.forward_func is classifier
    assert hasattr(GlobEnc.attribute, "__wrapped__")
    with pytest.raises(NotImplementedError):
        globenc.attribute_future()
