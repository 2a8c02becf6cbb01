"""The metrics against scikit-learn, and what weighing samples means."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from worker.measure.metrics import METRICS, Answers, measure

OF_SKLEARN = {
    "accuracy": sklearn_metrics.accuracy_score,
    "mcc": sklearn_metrics.matthews_corrcoef,
    "f1": lambda truth, prediction: sklearn_metrics.f1_score(
        truth, prediction, average="macro", zero_division=0.0
    ),
}


def classified(truth, prediction, classes: int) -> Answers:
    return Answers({"truth": np.array(truth), "prediction": np.array(prediction)}, classes)


def draw_labels(classes: int):
    labels = st.integers(0, classes - 1)
    return st.lists(st.tuples(labels, labels), min_size=1, max_size=60).map(
        lambda pairs: tuple(map(list, zip(*pairs, strict=True)))
    )


@pytest.mark.parametrize("name", OF_SKLEARN)
@given(draw_labels(5))
def test_many_classes_are_measured_as_scikit_learn_does(name, labels):
    truth, prediction = labels
    expected = OF_SKLEARN[name](truth, prediction)
    assert measure(METRICS[name], classified(truth, prediction, 5)) == pytest.approx(expected, abs=1e-12)


@given(draw_labels(2))
def test_two_classes_are_measured_by_the_f1_of_class_one(labels):
    truth, prediction = labels
    expected = sklearn_metrics.f1_score(truth, prediction, zero_division=0.0)
    assert measure(METRICS["f1"], classified(truth, prediction, 2)) == pytest.approx(expected)


def test_a_class_that_nobody_names_does_not_change_the_mean_of_the_f1():
    few, many = (classified([0, 1, 2, 2], [0, 1, 1, 2], classes) for classes in (3, 1_000))
    assert measure(METRICS["f1"], few) == measure(METRICS["f1"], many)


@pytest.mark.parametrize("name", ["f1", "mcc"])
@given(draw_labels(5), st.integers(0, 2**32 - 1))
def test_classes_that_do_not_occur_take_no_memory_and_change_no_value(name, labels, seed):
    truth, prediction = map(np.array, labels)
    weights = np.random.default_rng(seed).multinomial(len(truth), np.ones(len(truth)) / len(truth), size=7)
    among_few = METRICS[name].value(classified(truth, prediction, 5), weights)
    # A number for each of so many classes is in no machine's address space.
    spread = np.array([0, 3, 10**6, 10**12, 10**15 - 1])
    among_many = METRICS[name].value(classified(spread[truth], spread[prediction], 10**15), weights)
    assert among_many == pytest.approx(among_few, abs=1e-12)


def test_two_classes_stay_two_where_only_one_is_seen():
    assert measure(METRICS["f1"], classified([0, 0], [0, 0], 2)) == 0.0
    assert measure(METRICS["f1"], classified([0, 0], [0, 0], 3)) == 1.0


@pytest.mark.parametrize(("truth", "prediction"), [([0, 1, 2], [1, 1, 1]), ([2, 2], [0, 1]), ([1], [1])])
def test_constant_answers_or_truths_have_no_correlation(truth, prediction):
    assert measure(METRICS["mcc"], classified(truth, prediction, 3)) == 0.0


def test_mse_is_scikit_learns():
    generator = np.random.default_rng(0)
    truth, prediction = generator.normal(size=(2, 100)).astype(np.float32)
    answers = Answers({"truth": truth, "prediction": prediction}, 1)
    expected = sklearn_metrics.mean_squared_error(truth.astype(np.float64), prediction.astype(np.float64))
    assert measure(METRICS["mse"], answers) == pytest.approx(expected)


def test_mse_of_several_outputs_is_their_mean():
    answers = Answers({"truth": np.zeros((2, 2)), "prediction": np.array([[1.0, 2.0], [3.0, 4.0]])}, 2)
    assert measure(METRICS["mse"], answers) == (1 + 4 + 9 + 16) / 4


def modelled(nll, tokens) -> Answers:
    return Answers({"nll": np.array(nll, np.float64), "tokens": np.array(tokens, np.int64)}, 0)


def test_perplexity_is_exp_of_all_nats_over_all_tokens():
    # 10 tokens at ln 4 each and 30 at ln 8: exp((10 ln 4 + 30 ln 8) / 40) = 2^2.75, no mean of 4 and 8.
    answers = modelled([10 * math.log(4), 30 * math.log(8)], [10, 30])
    assert measure(METRICS["perplexity"], answers) == pytest.approx(2**2.75)


@given(st.integers(2, 50_000), st.integers(1, 100))
def test_guessing_among_n_words_has_the_perplexity_n(words, tokens):
    answers = modelled([tokens * math.log(words)], [tokens])
    assert measure(METRICS["perplexity"], answers) == pytest.approx(words, rel=1e-9)


def test_a_perplexity_without_bounds_is_still_a_number():
    assert math.isfinite(measure(METRICS["perplexity"], modelled([1e9], [1])))


@pytest.mark.parametrize("name", METRICS)
def test_counting_a_sample_twice_is_having_it_twice(name):
    generator = np.random.default_rng(1)
    arrays = {
        "truth": generator.integers(0, 4, 30),
        "prediction": generator.integers(0, 4, 30),
        "nll": generator.uniform(1, 9, 30),
        "tokens": generator.integers(1, 9, 30),
    }
    weights = generator.integers(0, 4, (5, 30))
    values = METRICS[name].value(Answers(arrays, 4), weights)
    for row, value in zip(weights, values, strict=True):
        repeated = Answers({key: np.repeat(array, row) for key, array in arrays.items()}, 4)
        assert value == pytest.approx(measure(METRICS[name], repeated))


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_model_has_the_best_value_there_is(name):
    truth = np.arange(20) % 4
    perfect = Answers({"truth": truth, "prediction": truth, "nll": np.zeros(20), "tokens": truth + 1}, 4)
    best = {"perplexity": 1.0, "mse": 0.0}.get(name, 1.0)
    assert measure(METRICS[name], perfect) == pytest.approx(best)
    assert METRICS[name].higher_is_better == (name not in ("perplexity", "mse"))
