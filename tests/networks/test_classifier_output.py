import torch
from transformers import PPLCNetConfig, PPLCNetForImageClassification

from medmerge_hf.networks.build import build_network
from medmerge_hf.networks.classifier_output import as_classifier


def pp_lcnet(seed):
    torch.manual_seed(seed)
    return PPLCNetForImageClassification(PPLCNetConfig(scale=0.25, class_expand=16, num_labels=3)).eval()


def test_a_network_without_loss_computes_that_of_its_logits():
    plain, images, labels = pp_lcnet(0), torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    wanted = plain(images).last_hidden_state
    network = as_classifier(plain)
    output = network(images, labels=labels)
    assert torch.equal(output.logits, wanted)
    assert torch.isclose(output.loss, torch.nn.functional.cross_entropy(wanted, labels))
    loss, logits = network(images, labels=labels, return_dict=False)[:2]
    assert torch.equal(logits, wanted)
    assert torch.equal(loss, output.loss)


def test_what_is_built_of_its_config_answers_so_and_is_saved_as_it_was():
    with torch.device("meta"):
        network = build_network(PPLCNetConfig(scale=0.25, num_labels=3))
    assert network.eval()(torch.zeros(1, 3, 32, 32, device="meta")).logits.shape == (1, 3)
    assert network.config.architectures == ["PPLCNetForImageClassification"]
