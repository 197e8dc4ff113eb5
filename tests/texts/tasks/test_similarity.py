"""Objects of sentence-transformers are explained directly, compared with plain calls."""

import pytest
import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Router, Transformer

from captum_globenc import EncoderForward, GlobEnc, explain
from captum_globenc.results.record import Span
from captum_globenc.texts import similarity_matrix
from captum_globenc.texts.default import encoder_folder
from checkpoints import LIMIT, save_classifier

TEXTS = ["A cat sleeps on the warm sofa.", "Stocks fell"]
OTHERS = ["The kitten is taking a nap.", "The market lost three percent on Monday"]
SIGNED = "transformer-deep-lift"


@pytest.fixture(scope="module")
def model():
    return SentenceTransformer(str(encoder_folder()), device="cpu")


def tiny(folder, **pooling):
    torch.manual_seed(0)
    transformer = Transformer(str(save_classifier(folder)))
    pooling = Pooling(transformer.get_embedding_dimension(), **pooling)
    return SentenceTransformer(modules=[transformer, pooling], device="cpu")


def masked(model, text):
    """The embedding of a text of which all but [CLS] and [SEP] is masked."""
    batch = model.tokenizer(text, return_tensors="pt")
    batch["input_ids"][:, 1:-1] = model.tokenizer.mask_token_id
    with torch.no_grad():
        return model(dict(batch))["sentence_embedding"][0]


def test_long_texts_are_truncated_with_a_warning(tmp_path):
    model = tiny(tmp_path)
    with pytest.warns(UserWarning, match=f"texts are truncated at {LIMIT} tokens, the limit of the model$"):
        (found,) = explain(["good film"], model, pair=["bad " * 60])
    assert found.headline.endswith(", text truncated")


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_contributions_of_each_text_sum_to_the_change_of_the_similarity(tmp_path, similarity):
    model = tiny(tmp_path)
    model.similarity_fn_name = similarity
    texts, others = ["a good film", "the plot is bad but great"], ["great script !", "a unhappy plot"]
    found = explain(texts, model, pair=others, methods=["globenc", SIGNED, "integrated-gradients"])
    one, other = (model.encode(it, convert_to_tensor=True) for it in (texts, others))
    expected = model.similarity_pairwise(one, other)
    compare = model.similarity_pairwise
    for index, it in enumerate(found):
        assert it.headline == f"similarity = {expected[index]:.4g}"
        assert it.value == it.explained == pytest.approx(expected[index].item(), abs=1e-6)
        sides = [
            [place for place, span in enumerate(it.offsets) if span and span.segment == side]
            for side in (0, 1)
        ]
        without = [
            compare(masked(model, texts[index])[None], other[index : index + 1]).item(),
            compare(one[index : index + 1], masked(model, others[index])[None]).item(),
        ]
        for side, base in zip(sides, without, strict=True):
            assert sum(it.scores[SIGNED][place] for place in side) == pytest.approx(it.value - base, abs=1e-5)
            summed = sum(it.scores["integrated-gradients"][place] for place in side)
            assert summed == pytest.approx(it.value - base, rel=0.03, abs=0.02)
        assert it.tokens == [
            token
            for text in (texts[index], others[index])
            for token in model.tokenizer.convert_ids_to_tokens(model.tokenizer(text)["input_ids"])
        ]
        assert (it.kinds[SIGNED], it.sums) == ("signed", {})


def test_shares_cover_both_embeddings(model):
    (it,) = explain(TEXTS[:1], model, pair=OTHERS[:1], layers=True)
    assert list(it.scores) == ["globenc", SIGNED]
    expected = []
    for text in (TEXTS[0], OTHERS[0]):
        forward = EncoderForward(model)
        inputs, extra = forward.arguments(model.tokenizer(text, return_tensors="pt"))
        expected += (GlobEnc(forward).attribute(inputs, None, extra, position="mean")[0] / 2).tolist()
    assert it.scores["globenc"] == pytest.approx(expected, rel=1e-5)
    assert it.position == "mean"
    assert it.layers["globenc"][-1] == pytest.approx(it.scores["globenc"], rel=1e-5)
    assert it.layers[SIGNED][0] == pytest.approx(it.scores[SIGNED], abs=1e-5)


def test_words_of_both_texts_are_shown_as_written(model):
    found = explain(TEXTS, model, pair=OTHERS, methods=[SIGNED])
    for it, *sources in zip(found, TEXTS, OTHERS, strict=True):
        words = [word for word in it.groups if not word.special]
        assert "".join(word.text for word in words) == "".join(sources).replace(" ", "")
        for word in words:
            first, last = it.offsets[word.tokens[0]], it.offsets[word.tokens[-1]]
            assert sources[first.segment][first.start : last.stop] == word.text
    assert found[0].spans([(0, 5)], segment=1)[0][0] == "The k"
    assert found[0].offsets[1] == Span(0, 1, 0)
    assert {part[0] for part in found[0].top(4, of="words")} & {"cat", "kitten"}


def test_the_matrix_sums_over_the_tokens_of_each_text(model):
    matrix = similarity_matrix(TEXTS[0], OTHERS[0], model)
    (it,) = explain(TEXTS[:1], model, pair=OTHERS[:1], methods=[SIGNED])
    assert matrix.tokens + matrix.others == it.tokens
    assert matrix.similarity == pytest.approx(it.value, abs=1e-6)
    over_others = matrix.scores.sum(0).tolist()
    assert over_others == pytest.approx(it.scores[SIGNED][: len(matrix.tokens)], abs=1e-5)
    # By the definition: a cosine is a sum over the tokens of the other text.
    with torch.no_grad():
        vectors = model.encode([OTHERS[0]], output_value="token_embeddings")[0]
        own = model.encode(TEXTS[:1], convert_to_tensor=True, normalize_embeddings=True)[0]
        blank = torch.nn.functional.normalize(masked(model, TEXTS[0]), dim=0)
    parts = vectors / vectors.sum(0).norm()
    assert matrix.scores.sum(1).tolist() == pytest.approx((parts @ (own - blank)).tolist(), abs=1e-5)
    best = divmod(int(matrix.scores.argmax()), len(matrix.tokens))
    assert (matrix.others[best[0]], matrix.tokens[best[1]]) == ("nap", "sleeps")


@pytest.mark.parametrize("mask_token", ["[MASK]", None])
def test_matrix_and_scores_have_the_same_baseline(tmp_path, mask_token):
    model = tiny(tmp_path)
    model.tokenizer.mask_token = mask_token
    matrix = similarity_matrix("a good film", "the plot is bad", model)
    (it,) = explain(["a good film"], model, pair=["the plot is bad"], methods=[SIGNED])
    assert it.settings["baseline"] == ("mean" if mask_token is None else "mask")
    assert matrix.scores.sum(0).tolist() == pytest.approx(it.scores[SIGNED][: len(matrix.tokens)], abs=1e-5)


def test_a_model_without_mean_pooling_has_no_matrix(tmp_path, model):
    first = tiny(tmp_path, pooling_mode="cls")
    with pytest.raises(ValueError, match="not the means of the token vectors"):
        similarity_matrix("a film", "the plot", first)
    with pytest.raises(TypeError, match="pass a SentenceTransformer"):
        similarity_matrix("a film", "the plot", CrossEncoder(str(tmp_path), device="cpu"))
    (it,) = explain(["a film"], first, pair=["the plot"])
    assert it.position is None


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_single_embedding_is_explained_by_globenc(tmp_path, pooling):
    model = tiny(tmp_path, pooling_mode=pooling)
    texts = ["a good film", "the plot is bad but great"]
    told = []
    found = explain(texts, model, layers=True, tell=told.append)
    assert [note.partition(":")[0] for note in told] == ["transformer-deep-lift is left out"]
    assert "pass pair" in told[0]
    vectors = model.encode(texts, convert_to_tensor=True)
    for text, vector, it in zip(texts, vectors, found, strict=True):
        forward = EncoderForward(model)
        inputs, extra = forward.arguments(model.tokenizer(text, return_tensors="pt"))
        place = {"mean": "mean", "cls": 0}[pooling]
        expected = GlobEnc(forward).attribute(inputs, None, extra, position=place)[0].tolist()
        assert list(it.scores) == list(it.layers) == ["globenc"]
        assert it.scores["globenc"] == pytest.approx(expected, rel=1e-4)
        assert it.layers["globenc"][-1] == pytest.approx(expected, rel=1e-4)
        assert (it.pair, it.position) == (None, place)
        assert it.headline == f"norm of the embedding = {vector.norm():.4g}"
        assert it.words(special=False)[0][0] == text.split()[0]
        assert {span.segment for span in it.offsets if span} == {0}


def test_an_embedding_without_mean_pooling_needs_a_position(tmp_path):
    model = tiny(tmp_path, pooling_mode="max")
    model.similarity_fn_name = "euclidean"  # which nothing is compared by
    with pytest.raises(ValueError, match=r"pass position=\.\.\."):
        explain(["a good film"], model, methods=["globenc"])
    (it,) = explain(["a good film"], model, methods=["globenc"], position=-1)
    assert it.position == 4
    assert it.captions["globenc"] == "share of each token in the representation of [SEP]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pair": ["A nap.", None]}, "1 of 2 texts have a pair: explain them apart from the others"),
        ({"target": 0}, "target does not apply to embeddings"),
        (
            {"methods": ["globenc", "decompx"]},
            "decompx does not apply: a single embedding .*pass pair.*globenc alone",
        ),
        ({"pair": OTHERS, "target": 0}, "target does not apply to similarities"),
        ({"pair": OTHERS, "windows": 3}, "windows does not apply"),
    ],
)
def test_options_that_do_not_apply_to_a_similarity_are_rejected(model, options, message):
    with pytest.raises(ValueError, match=message):
        explain(TEXTS, model, **options)


def test_models_that_change_texts_or_embeddings_are_rejected(tmp_path):
    model = tiny(tmp_path)
    model.similarity_fn_name = "euclidean"
    with pytest.raises(ValueError, match="similarity is 'euclidean': only cosine and dot are supported"):
        explain(["a film"], model, pair="the plot")
    model.similarity_fn_name = "cosine"
    model.truncate_dim = 4
    with pytest.raises(ValueError, match="truncate_dim is not supported"):
        explain(["a film"], model, pair="the plot")


def parts(folder, mode="mean", seed=0, layers=2, **pooling):
    """The modules of a tiny embedder."""
    transformer = Transformer(str(save_classifier(folder, num_hidden_layers=layers)))
    torch.manual_seed(seed)
    for weight in transformer.parameters():
        torch.nn.init.normal_(weight, std=0.5) if weight.dim() > 1 else None
    return [transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode=mode, **pooling)]


def routed(folder):
    """Two encoders, of different depth and pooling."""
    query = parts(folder / "query", "mean", 1, layers=1)
    return SentenceTransformer(
        modules=[Router.for_query_document(query, parts(folder / "document", "cls", 2))], device="cpu"
    )


def routed_later(folder):
    """One encoder, and a linear map for queries or documents."""
    maps = [Dense(16, 8, bias=True), Dense(16, 8, bias=True)]
    router = Router.for_query_document([maps[0]], [maps[1]])
    return SentenceTransformer(modules=[*parts(folder), router], device="cpu")


def prompted(folder, prompts=None, **pooling):
    model = SentenceTransformer(modules=parts(folder, **pooling), device="cpu")
    model.prompts = prompts or {"query": "great plot: ", "passage": "script : "}
    return model


def without_prompt(folder):
    """Prompts that the mean leaves out."""
    return prompted(folder, include_prompt=False)


def of_words_masked(model, text, role, prompt):
    """The embedding of a text of which all but [CLS], [SEP] and the prompt is masked, by the model itself."""
    features = model.preprocess([text], prompt=prompt, task=role)
    count = len(model.tokenizer.tokenize(prompt))
    features["input_ids"][:, 1 + count : -1] = model.tokenizer.mask_token_id
    with torch.no_grad():
        return model(features, task=role)["sentence_embedding"]


RETRIEVERS = [routed, routed_later, prompted, without_prompt]
QUERIES, DOCUMENTS = ["a good film", "the plot is bad"], ["great script !", "a unhappy plot but a great film"]


@pytest.mark.parametrize("make", RETRIEVERS)
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_query_and_a_document_are_encoded_as_for_retrieval(tmp_path, make, similarity):
    model = make(tmp_path)
    model.similarity_fn_name = similarity
    parts = dict(model.named_modules())
    told = []
    found = explain(QUERIES, model, pair=DOCUMENTS, layers=True, tell=told.append)
    assert dict(model.named_modules()) == parts
    queries = model.encode_query(QUERIES, convert_to_tensor=True)
    documents = model.encode_document(DOCUMENTS, convert_to_tensor=True)
    compare = model.similarity_pairwise
    expected = compare(queries, documents)
    assert [it.value for it in found] == pytest.approx(expected.tolist(), abs=1e-5)
    prompts = ("", "") if make in (routed, routed_later) else ("great plot: ", "script : ")
    for index, it in enumerate(found):
        assert it.settings["encoded"] == "by encode_query and encode_document"
        masked = [
            of_words_masked(model, texts[index], role, prompt)
            for texts, role, prompt in zip((QUERIES, DOCUMENTS), ("query", "document"), prompts, strict=True)
        ]
        without = [
            compare(masked[0], documents[index : index + 1]).item(),
            compare(queries[index : index + 1], masked[1]).item(),
        ]
        for side, base in enumerate(without):
            places = [place for place, span in enumerate(it.offsets) if span and span.segment == side]
            summed = sum(it.scores[SIGNED][place] for place in places)
            assert summed == pytest.approx(it.value - base, abs=2e-5)
        # The prompt is special: its scores are 0, and only the texts have words.
        words = [word for word in it.groups if not word.special]
        assert [word.text for word in words] == [*QUERIES[index].split(), *DOCUMENTS[index].split()]
        for word in words:
            first, last = it.offsets[word.tokens[0]], it.offsets[word.tokens[-1]]
            source = (QUERIES, DOCUMENTS)[first.segment][index]
            assert source[first.start : last.stop] == word.text
        special = [place for word in it.groups if word.special for place in word.tokens]
        assert [it.scores[SIGNED][place] for place in special] == pytest.approx([0] * len(special), abs=1e-6)
        prompt = [word.text for word in it.groups if word.special and not word.text.startswith("[")]
        assert prompt == ["great", "plot", ":", "script", ":"] * (make not in (routed, routed_later))
        assert ("globenc" in it.scores) == (make is not without_prompt)  # no mean of all tokens
        assert sum(it.scores.get("globenc", [1])) == pytest.approx(1, abs=1e-5)
    if make is routed:
        assert "different numbers" in " ".join(told)
        assert found[0].layers == {}
    else:
        assert found[0].layers[SIGNED][0] == pytest.approx(found[0].scores[SIGNED], abs=1e-5)
        if make is not without_prompt:
            assert found[0].layers["globenc"][-1] == pytest.approx(found[0].scores["globenc"], abs=1e-5)


def test_a_model_without_roles_is_explained_as_encode(tmp_path):
    model = prompted(tmp_path, {"sts": "great plot: "})
    model.default_prompt_name = "sts"
    (it,) = explain(QUERIES[:1], model, pair=DOCUMENTS[:1], methods=[SIGNED])
    one, other = (model.encode(it[:1], convert_to_tensor=True) for it in (QUERIES, DOCUMENTS))
    assert it.value == pytest.approx(model.similarity(one, other).item(), abs=1e-6)
    assert "encoded" not in it.settings
    (alone,) = explain(QUERIES[:1], routed(tmp_path), methods=["globenc"])  # by its default route
    assert alone.value == pytest.approx(
        routed(tmp_path).encode(QUERIES[0], convert_to_tensor=True).norm().item()
    )


def test_the_matrix_of_a_retriever_is_of_a_query_and_a_document(tmp_path):
    model = prompted(tmp_path)
    matrix = similarity_matrix(QUERIES[1], DOCUMENTS[0], model)
    (it,) = explain(QUERIES[1:], model, pair=DOCUMENTS[:1], methods=[SIGNED])
    assert matrix.tokens + matrix.others == it.tokens
    assert matrix.similarity == pytest.approx(it.value, abs=1e-6)
    assert matrix.scores.sum(0).tolist() == pytest.approx(it.scores[SIGNED][: len(matrix.tokens)], abs=1e-5)


def test_tokens_that_the_model_does_not_read_are_rejected(tmp_path, monkeypatch):
    model = prompted(tmp_path)
    preprocess = Transformer.preprocess
    monkeypatch.setattr(
        Transformer,
        "preprocess",
        lambda self, texts, **options: preprocess(self, [f"great {it}" for it in texts], **options),
    )
    with pytest.raises(ValueError, match="encode_query passes other tokens to the model than its tokenizer"):
        explain(["a film"], model, pair="the plot")


@pytest.mark.parametrize("kind", [MultiVectorEncoder, SparseEncoder])
def test_encoders_of_other_kinds_are_not_supported(kind):
    model = kind.__new__(kind)
    torch.nn.Module.__init__(model)
    with pytest.raises(TypeError, match=f"a {kind.__name__} of sentence-transformers is not supported: pass"):
        explain(["a film"], model, pair="the plot")


def test_a_reranker_is_explained_as_its_sequence_classifier_is(tmp_path):
    save_classifier(tmp_path, id2label={0: "relevance"}, label2id={"relevance": 0})
    model = CrossEncoder(str(tmp_path), device="cpu")
    pairs = ["great script !", "bad"]
    found = explain(["a good film", "the plot"], model, pair=pairs, methods=[SIGNED])
    expected = model.predict(
        [("a good film", pairs[0]), ("the plot", pairs[1])],
        activation_fn=torch.nn.Identity(),
        convert_to_tensor=True,
    )
    assert [it.value for it in found] == pytest.approx(expected.tolist(), abs=1e-5)
    assert found[0].headline == f"relevance = {found[0].value:.4g}"
    assert {place.segment for place in found[0].offsets if place} == {0, 1}
    with pytest.raises(TypeError, match="a CrossEncoder has a tokenizer of its own"):
        explain(["a"], model, SentenceTransformer(str(encoder_folder()), device="cpu").tokenizer, pair="b")
