"""The leaderboard: tables and first paragraph for numbers computed by hand, and a run of some parts."""

import json
import sys

import pytest
import torch

from captum_globenc.evaluation import DEFAULT_METHODS, METHODS


def outcome(bench, **rows):
    measures = ("most minus least", "marked-precision/size")
    values = {method: torch.tensor(it, dtype=torch.double) for method, it in rows.items()}
    return bench("leaderboard_page").Outcome(
        len(next(iter(values.values()))),
        {method: dict.fromkeys(measures, it) for method, it in values.items()},
        60,
    )


def test_a_table_has_means_errors_and_differences_text_by_text(bench):
    rows = {
        "globenc": {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([1.0, torch.nan, 3.0])},
        "integrated-gradients": {"a": torch.tensor([1.0, 1.0, 1.0]), "b": torch.tensor([2.0, 2.0, 2.0])},
    }
    # Deviations 1 and sqrt 2, over the roots of 3 and of 2 texts.
    assert list(bench("comparison").table(rows, ["a"], {"cost": {"globenc": "1.4"}})) == [
        "| method | a | minus integrated-gradients | b | cost |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| globenc | 2.000 ± 0.577 | +1.000 ± 0.577 | 2.000 ± 1.000 | 1.4 |",
        "| integrated-gradients | 1.000 ± 0.000 |  | 2.000 ± 0.000 |  |",
    ]


def test_the_first_paragraph_states_where_our_methods_are_worse(bench):
    page = bench("leaderboard_page")
    ahead = {"globenc": [3.0, 4, 5, 4], "transformer-deep-lift": [1.0, 2, 3, 2], "lime": [1.0, 2, 3, 2.1]}
    behind = {"globenc": [1.0, 2, 3, 2], "transformer-deep-lift": [3.0, 4, 5, 4], "lime": [3.0, 4, 5.2, 4]}
    outcomes = {name: outcome(bench, **(ahead if name == "pair" else behind)) for name in page.MAIN}
    globenc, exact = page.losses(outcomes).split("\n- `transformer-deep-lift` is worse")
    # The best but itself; 0.05 is one standard error of the differences.
    assert "embedded (`lime`, by 2.050 ± 0.050)" in globenc
    assert globenc.endswith("on pair (+1.975 ± 0.025 to `lime`).")
    assert exact.startswith(" than another method on pair (`globenc`, by 2.000 ± 0.000). ")
    assert "embedded (-0.050 ± 0.050 to `lime`)" in exact


def test_every_registered_method_is_compared_except_extra_kinds(bench, monkeypatch):
    monkeypatch.setitem(METHODS, "of-somebody", None)
    names = bench("comparison").compared_methods()
    # W-FixedRes is among them as attention-rollout.
    assert set(DEFAULT_METHODS) - {"W-FixedRes"} | {"attention-rollout", "of-somebody"} <= set(names)
    assert {"W", "N", "N-ResLN", "W/max-flow"}.isdisjoint(names)


def test_parts_are_saved_and_rejected_for_another_commit(bench, tmp_path, monkeypatch):
    leaderboard = bench("leaderboard")
    monkeypatch.setattr(
        "comparison.METHODS", {name: METHODS[name] for name in ("globenc", "integrated-gradients", "random")}
    )
    options = leaderboard.Options("abc", 4, 32)
    leaderboard.begin(tmp_path, options)
    for part in ("pair", "pre-ln", "vit"):
        leaderboard.work(part, tmp_path, options)
    found = {part: json.loads((tmp_path / f"{part}.json").read_text()) for part in ("pair", "pre-ln", "vit")}
    assert [it["texts"] for it in found.values()] == [4, 4, 4]
    assert set(found["pair"]["reliance"]) == {"with", "without", "decoy"}
    rows = found["pre-ln"]["rows"]["globenc"]
    assert rows["most minus least"] == [a - b for a, b in zip(rows["most"], rows["least"], strict=True)]
    cost = found["pre-ln"]["cost"]
    assert cost["integrated-gradients"] > cost["random"] > 0
    leaderboard.begin(tmp_path, options)
    with pytest.raises(SystemExit, match="other code or options"):
        leaderboard.begin(tmp_path, leaderboard.Options("abd", 4, 32))


def test_random_parts_are_measured_with_three_seeds(bench, monkeypatch):
    leaderboard, page = bench("leaderboard"), bench("leaderboard_page")
    restore = "transformer-deep-lift/restore-2"
    options = leaderboard.Options("abc", 4, None, ("globenc", restore))
    assert options.chosen() == ["globenc", restore]
    asked = []

    def again(methods, seed):
        asked.append((methods, seed))
        return {name: {"a": torch.tensor([1.0, 2.0]) + seed} for name in methods}

    rows = {name: {"a": torch.tensor([0.0, 1.0])} for name in ("globenc", restore)}
    found = leaderboard.over_seeds(rows, "a", again, options)
    assert found == {restore: [0.5, 2.5, 3.5]}
    assert asked == [([restore], 1), ([restore], 2)]
    outcome = page.Outcome(2, rows, 60, seeds=found)
    assert page.seeds_column(outcome) == {"seeds": {restore: "0.500, 2.500, 3.500"}}
    assert leaderboard.over_seeds(rows, "a", again, leaderboard.Options("abc", 4, None, ("globenc",))) == {}


def test_some_methods_on_some_models_have_a_page_of_their_own(bench):
    page = bench("leaderboard_page")
    values = torch.tensor([0.0, 1.0])
    measures = ["most minus least", "most", "least", "completeness error", "distance to Shapley"]
    methods = ["integrated-gradients", "transformer-deep-lift", "transformer-deep-lift/restore-2", "globenc"]
    rows = {method: dict.fromkeys(measures, values) for method in methods}
    made = page.Outcome(2, rows, 60, dict.fromkeys(methods, 3.0))
    lines = list(page.lines({"embedded": made}, "abc", 2))
    text = "\n".join(lines)
    assert "### embedded" in text
    assert "### masked" not in text
    assert "Sanity checks" not in text
    assert "- `transformer-deep-lift/restore-2` is worse than another method on none of the models." in text
    (row,) = [line for line in lines if line.startswith("| globenc")]
    # Its scores are no parts of a logit.
    assert row.endswith("|  |  | 3.0 |")


def test_reliance_is_measured_by_removing_planted_words(bench, monkeypatch):
    shortcuts = bench("shortcuts")
    texts = shortcuts.planted("pair", 40)
    assert [it.number for it in texts] == list(range(40))

    def by_rule(_, examples):
        # Right by construction: the first of the two words, and class 0 where neither stands.
        return torch.tensor(
            [int("harbor" in it.text.split("copper")[0]) if "harbor" in it.text else 0 for it in examples]
        )

    monkeypatch.setattr(shortcuts, "predictions", by_rule)
    ones = sum(it.label for it in texts) / 40
    found = shortcuts.reliance(None, texts)
    assert found == pytest.approx({"with": 1, "without": 1 - ones, "decoy": 0})
    assert "does not rely" not in shortcuts.said(found)
    for changed in ({"with": 0.9}, {"decoy": 0.1}):
        assert "does not rely" in shortcuts.said({**found, **changed})


def test_up_to_a_share_of_the_tokens_is_masked_and_special_ones_stay(bench):
    script = bench("train_default")
    sentences = script.Sentences(
        ["s"] * 200, torch.zeros(200).long(), ["a dull film of many reels " * 8] * 200
    )
    trainer = script.Trainer(sentences, mask=0.5)
    every, generator = torch.arange(200), torch.Generator().manual_seed(0)
    plain = trainer.batch(every)["input_ids"]
    ids = trainer.masked(trainer.batch(every), generator)["input_ids"]
    gone = ids != plain
    assert set(ids[gone].tolist()) == {trainer.tokenizer.mask_token_id}
    assert not gone[:, [0, -1]].any()
    shares = gone[:, 1:-1].double().mean(dim=1)
    # Even between 0 and 1/2, and a little more by chance; five deviations of the mean.
    assert abs(shares.mean() - 0.25) < 5 * 0.5 / 12**0.5 / 200**0.5
    assert shares.max() < 0.8
    trainer.mask = 0.0
    assert torch.equal(trainer.masked(trainer.batch(every), generator)["input_ids"], plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mask", "0.5"], "--out is needed"),
        (["--data", "other.tsv"], "--out is needed"),
        (["--mask", "2"], "0 to 1"),
    ],
)
def test_the_shipped_weights_are_not_overwritten_by_another_classifier(
    bench, monkeypatch, capsys, options, message
):
    monkeypatch.setattr(sys, "argv", ["train_default.py", *options])
    with pytest.raises(SystemExit):
        bench("train_default").main()
    assert message in capsys.readouterr().err
