import pytest
import torch

from nbft.training.sampling import LengthSampler, VirtualEpochSampler


def epochs(sampler, many):
    return [list(sampler) for _ in range(many)]


@pytest.mark.parametrize("samples", [3, 4, 10, 25])
def test_no_row_comes_twice_before_all_came_once(samples):
    drawn = [row for epoch in epochs(VirtualEpochSampler(10, samples, 1), 20) for row in epoch]
    for begin in range(0, len(drawn) - 10 + 1, 10):
        assert sorted(drawn[begin : begin + 10]) == list(range(10))


def test_an_epoch_has_so_many_rows():
    sampler = VirtualEpochSampler(10, 4, 1)
    assert len(sampler) == 4
    assert [len(epoch) for epoch in epochs(sampler, 3)] == [4, 4, 4]


def test_epochs_differ_and_repeat_with_the_seed():
    first = epochs(VirtualEpochSampler(10, 10, 1), 2)
    assert first[0] != first[1]
    assert epochs(VirtualEpochSampler(10, 10, 1), 2) == first
    assert epochs(VirtualEpochSampler(10, 10, 2), 2) != first


def test_a_resumed_run_draws_what_the_other_would_have():
    through = epochs(VirtualEpochSampler(10, 4, 1), 3)
    resumed = VirtualEpochSampler(10, 4, 1)
    resumed.set_epoch(2)
    assert list(resumed) == through[2]


def test_the_order_is_kept_without_a_seed():
    assert epochs(VirtualEpochSampler(3, 4, None), 2) == [[0, 1, 2, 0], [1, 2, 0, 1]]


def test_rows_grouped_by_length_come_in_the_same_order_again():
    """The order of an epoch is drawn from the random numbers of the training, whatever they did."""
    lengths = [n % 17 for n in range(300)]
    torch.manual_seed(3)
    through = LengthSampler(4, lengths=lengths)
    epochs(through, 1)
    torch.rand(100)  # dropout
    second = list(through)
    assert second != list(range(300))
    resumed = LengthSampler(4, lengths=lengths)
    resumed.begin = through.began
    following = torch.get_rng_state()
    assert list(resumed) == second
    assert torch.equal(torch.get_rng_state(), following)
    assert torch.equal(resumed.began, through.began)  # as it is saved again
    assert list(resumed) != second  # the next epoch draws from where the random numbers are
