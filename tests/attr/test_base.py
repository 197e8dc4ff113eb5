"""Every method fulfills Captum's requirements for attribution classes."""

import pytest
import torch
from captum.attr import Attribution

from captum_globenc import DecompX, GlobEnc, TransformerDeepLift

METHODS = [GlobEnc, TransformerDeepLift, DecompX]
every_method = pytest.mark.parametrize("method", METHODS)


@every_method
def test_a_method_has_the_name_of_its_class_before_and_after_it_is_made(classifier, method):
    assert issubclass(method, Attribution)
    assert method.get_name() == method(classifier).get_name() == method.__name__


@every_method
def test_attribute_future_names_the_method(classifier, method):
    with pytest.raises(NotImplementedError, match=f"not implemented for {method.__name__}"):
        method(classifier).attribute_future()


@pytest.mark.parametrize(
    ("method", "multiplies", "delta"),
    [(GlobEnc, False, False), (TransformerDeepLift, True, True), (DecompX, True, False)],
)
def test_methods_report_the_kind_of_their_scores_as_captum_does(classifier, method, multiplies, delta):
    made = method(classifier)
    assert (made.multiplies_by_inputs, made.has_convergence_delta()) == (multiplies, delta)


@every_method
def test_a_model_that_is_not_a_module_is_rejected_by_its_type(classifier, method):
    with pytest.raises(TypeError, match=rf"model is a str, .*{method.__name__}\(forward_func, model\)"):
        method(classifier, "bert")


@every_method
def test_the_model_defaults_to_the_forward_function(classifier, method):
    assert method(classifier).model is classifier
    assert method(lambda ids: classifier(ids).logits, classifier).model is classifier


@pytest.mark.parametrize("method", [GlobEnc, DecompX])
def test_a_function_without_a_model_is_rejected_where_the_encoder_is_needed(method):
    with pytest.raises(ValueError, match=rf"not a module.*{method.__name__}\(forward_func, model\)"):
        method(lambda ids: ids)


@every_method
def test_replicas_on_several_devices_are_rejected(classifier, method):
    replicated = torch.nn.DataParallel(classifier)
    replicated.device_ids = [0, 1]  # without the devices
    with pytest.raises(ValueError, match="DataParallel runs replicas of BertForSequenceClassification"):
        method(replicated)
