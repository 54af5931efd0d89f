"""A recorded call keeps its arguments as they were, and gives them back one sample at a time."""

import torch

from madcore.extraction.module_call import ModuleCall


def test_arguments_are_copied_in_the_models_precision() -> None:
    numbers, ids = torch.tensor([[1.0], [2.0]], dtype=torch.bfloat16), torch.tensor([3, 4])
    call = ModuleCall.of((numbers,), {"ids": ids, "mode": "sum"}, torch.float64)
    numbers.zero_()
    ids.zero_()
    copied, copied_ids, mode = call.leaves
    assert copied.dtype == torch.float64 and copied.tolist() == [[1.0], [2.0]]
    assert copied_ids.dtype == torch.int64 and copied_ids.tolist() == [3, 4]
    assert mode == "sum"


def test_a_call_is_recorded_without_its_graph() -> None:
    (leaf,) = ModuleCall.of((torch.ones(2, requires_grad=True) * 2,), {}, torch.float32).leaves
    assert not leaf.requires_grad


def test_one_sample_replaces_all_where_they_come_first() -> None:
    """In a batch of 2, a table (3, 2) does not have the samples first, and a number has no axis."""
    inputs, table, scale = torch.tensor([[1.0], [2.0]]), torch.arange(6.0).reshape(3, 2), torch.tensor(5.0)
    call = ModuleCall.of((inputs, table), {"nested": [scale, {"mask": torch.tensor([True, False])}]}, torch.float32)
    places, tensors = call.mapped(2)
    assert [tensor.tolist() for tensor in tensors] == [[[1.0], [2.0]], [True, False]]
    args, kwargs = call.with_one(places, [tensor[1] for tensor in tensors])
    assert args[0].tolist() == [[2.0]] and args[1].tolist() == table.tolist()
    assert kwargs["nested"][0] == 5.0 and kwargs["nested"][1]["mask"].tolist() == [False]


def test_a_module_may_overwrite_what_it_is_given() -> None:
    call = ModuleCall.of((torch.ones(2, 3), torch.ones(4)), {}, torch.float32)
    places, tensors = call.mapped(2)
    for argument in call.with_one(places, [tensor[0] for tensor in tensors])[0]:
        argument.zero_()
    assert all((leaf == 1).all() for leaf in call.leaves)
