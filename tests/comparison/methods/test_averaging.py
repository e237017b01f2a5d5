import torch

from medmerge_hf.comparison.methods.averaging import average, even, greedy_choice


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
