"""What the hooks of a pass add to rows: once for each use, and not at all where it would be wrong."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from madcore import LayerError
from madcore.extraction.recording import Member, Recorder, formula_hook, rooted_everywhere
from madcore.formulas.matrices import LinearWeight, Sides

WEIGHT = Member("linear.weight", LinearWeight((2, 3)), Sides(None, None), slice(0, 6))


def recorder_of(samples: int, k: int = 6) -> Recorder:
    return Recorder(torch.zeros(samples, k), torch.zeros((), requires_grad=True))


def recorded(inputs: Sequence[Tensor], samples: int, member: Member = WEIGHT) -> tuple[Recorder, nn.Linear]:
    """The recorder after a pass in which a Linear is called on each of some inputs, and outputs are summed."""
    recorder, linear = recorder_of(samples), nn.Linear(3, 2).requires_grad_(False)
    with_hook = linear.register_forward_hook(formula_hook(recorder, [member]), with_kwargs=True)
    sum((number + 1) * linear(own).sum() for number, own in enumerate(inputs)).backward()
    with_hook.remove()
    return recorder, linear


def test_a_use_adds_the_gradient_of_each_sample() -> None:
    """The gradient of a sum of outputs is the input, for both outputs; the second use counts twice here."""
    first, second = torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)
    assert recorded([first], 2)[0].rows.tolist() == [[0, 1, 2, 0, 1, 2], [3, 4, 5, 3, 4, 5]]
    assert recorded([first, second], 2)[0].rows.tolist() == [[2, 3, 4, 2, 3, 4], [5, 6, 7, 5, 6, 7]]


def test_an_input_that_all_samples_share_counts_for_each() -> None:
    recorder, _ = recorded([torch.tensor([[1.0, 2.0, 3.0]])], 3)
    assert recorder.rows.tolist() == [[1, 2, 3, 1, 2, 3]] * 3


def test_an_input_of_another_length_is_refused_with_both_numbers() -> None:
    recorder, _ = recorded([torch.ones(4, 3)], 2)
    assert recorder.refused == {"linear.weight": "its input has 4 entries first, where the batch has 2 samples"}
    assert not recorder.rows.any()


ARRANGEMENTS = {
    "second": (torch.arange(12.0).reshape(2, 2, 3).transpose(0, 1), [[3, 5, 7, 3, 5, 7], [15, 17, 19, 15, 17, 19]]),
    "merged": (torch.arange(12.0).reshape(4, 3), [[3, 5, 7, 3, 5, 7], [15, 17, 19, 15, 17, 19]]),
    "nowhere": (torch.arange(6.0).reshape(2, 3), [[3, 5, 7, 3, 5, 7]] * 2),
}


@pytest.mark.parametrize("samples", ARRANGEMENTS)
def test_samples_may_be_elsewhere_than_on_the_first_axis(samples: str) -> None:
    """Of a sum of outputs, each sample's row is the sum of its two positions' inputs."""
    inputs, expected = ARRANGEMENTS[samples]
    member = Member(WEIGHT.name, WEIGHT.formula, WEIGHT.sides, WEIGHT.place, samples)
    assert recorded([inputs], 2, member)[0].rows.tolist() == expected


def test_positions_that_do_not_divide_among_the_samples_are_refused() -> None:
    member = Member("linear.weight", LinearWeight((2, 3)), Sides(None, None), slice(0, 6), "merged")
    assert member.arranged(torch.zeros(0, 3), 0).shape == (0, 1, 3)
    with pytest.raises(
        LayerError, match="its input or output has 5 entries first, no multiple of the batch's 2 samples"
    ):
        member.arranged(torch.zeros(5, 3), 2)


def test_a_module_that_only_ran_without_gradients_is_silent() -> None:
    recorder, linear = recorder_of(2), nn.Linear(3, 2)
    with torch.no_grad():
        recorder.use(linear, [WEIGHT], torch.ones(2, 3), linear(torch.ones(2, 3)))
    assert recorder.silent == ["linear.weight"]
    recorder.use(linear, [WEIGHT], torch.ones(2, 3), linear(torch.ones(2, 3)))
    assert recorder.silent == []


def test_nothing_is_recorded_while_modules_run_for_another_purpose() -> None:
    recorder, linear = recorder_of(2), nn.Linear(3, 2).requires_grad_(False)
    with recorder.exact():
        assert recorder.paused and not torch.is_grad_enabled()
        output = linear(torch.ones(2, 3))
        assert recorder.use(linear, [WEIGHT], torch.ones(2, 3), output) is output
    assert not recorder.paused and not output.requires_grad and recorder.silent == []


def test_an_output_with_one_entry_is_repeated_for_each_sample() -> None:
    recorder = recorder_of(3)
    assert recorder.spread(torch.tensor([[1.0, 2.0]])).tolist() == [[1.0, 2.0]] * 3
    for output in (torch.ones(3, 2), torch.ones(2, 2), torch.tensor(1.0)):
        assert recorder.spread(output) is output


def test_a_rooted_output_can_still_be_overwritten() -> None:
    recorder, output = recorder_of(2), torch.ones(2, 3)
    rooted = recorder.root(output)
    assert rooted.requires_grad and not rooted.is_leaf and rooted.data_ptr() == output.data_ptr()
    assert recorder.root(rooted) is rooted
    rooted.mul_(2)
    assert (rooted == 2).all()


def test_a_hook_survives_an_activation_that_overwrites_a_view() -> None:
    recorder, linear = recorder_of(2), nn.Linear(3, 2).requires_grad_(False)
    inputs = torch.arange(12.0).reshape(2, 2, 3)
    output = recorder.use(linear, [WEIGHT], inputs, linear(inputs))
    nn.functional.hardtanh_(output, -1e6, 1e6).sum().backward()
    assert recorder.rows.tolist() == [[3, 5, 7, 3, 5, 7], [15, 17, 19, 15, 17, 19]]


def test_only_modules_without_submodules_are_rooted_and_only_inside() -> None:
    recorder = recorder_of(2)
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Embedding(5, 2)).requires_grad_(False)
    with rooted_everywhere(recorder, model):
        assert model[0](torch.ones(2, 3)).requires_grad and model[1](torch.ones(2, dtype=torch.int64)).requires_grad
        with torch.no_grad():
            assert not model[0](torch.ones(2, 3)).requires_grad
        with recorder.exact(), torch.enable_grad():
            assert not model[0](torch.ones(2, 3)).requires_grad
    assert not model[0](torch.ones(2, 3)).requires_grad
    assert not any(module._forward_hooks for module in model.modules())
