import pytest
import torch

from medmerge_hf.errors import StateError
from medmerge_hf.soups import average, even, greedy_choice, learned_soup


def test_an_average_leaves_integers_alone():
    states = [{"w": torch.zeros(2), "n": torch.tensor(3)}, {"w": torch.ones(2), "n": torch.tensor(5)}]
    found = average(states, even(states))
    assert found["w"].tolist() == [0.5, 0.5]
    assert found["n"] == 3


def test_the_greedy_soup_is_never_worse_than_its_best_ingredient():
    torch.manual_seed(0)
    target, states = torch.randn(8), [{"w": torch.randn(8)} for _ in range(6)]

    def score(state):
        return -float((state["w"] - target).square().sum())

    scores = [score(state) for state in states]
    taken = [states[place] for place in greedy_choice(states, scores, score)]
    assert score(average(taken, even(taken))) >= max(scores)


def test_the_learned_soup_leans_to_the_better_network():
    torch.manual_seed(0)
    images = torch.randn(64, 4)
    good, bad = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
    labels = good(images).argmax(1)
    states = [bad.state_dict(), {name: 5 * tensor for name, tensor in good.state_dict().items()}]
    found = learned_soup(torch.nn.Linear(4, 2), states, images, labels, steps=60)
    plain = average(states, even(states))

    def loss(state):
        return float(torch.nn.functional.cross_entropy(images @ state["weight"].T + state["bias"], labels))

    assert loss(found) < loss(plain)


def test_a_soup_of_nothing_is_refused():
    with pytest.raises(StateError, match="fine-tuned"):
        learned_soup(torch.nn.Linear(2, 2), [], torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))
