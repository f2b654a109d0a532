"""Model outputs of every structure: their tensors, their concatenation, and the selection of samples."""

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import ImageClassifierOutput

from seewhy.tracing.outputs import concatenate_outputs, iter_tensors, map_outputs, select_samples

Pair = namedtuple("Pair", "a b")


@dataclass(frozen=True)
class Record:
    a: Any
    b: Any


class Options(dict):
    """A mapping whose constructor has another parameter than the items."""

    def __init__(self, *, a, b):
        super().__init__(a=a, b=b)


class Frozen(Mapping):
    def __init__(self, items):
        self.items_ = dict(items)

    def __getitem__(self, key):
        return self.items_[key]

    def __iter__(self):
        return iter(self.items_)

    def __len__(self):
        return len(self.items_)


class Row(list):
    pass


STRUCTURES = {  # name -> (make an output of two values, type of a result)
    "tuple": (lambda a, b: (a, b), tuple),
    "list": (lambda a, b: [a, b], list),
    "subclass of list": (lambda a, b: Row([a, b]), Row),
    "namedtuple": (Pair, Pair),
    "dict": (lambda a, b: {"a": a, "b": b}, dict),
    "OrderedDict": (lambda a, b: OrderedDict(a=a, b=b), OrderedDict),
    "defaultdict": (lambda a, b: defaultdict(list, a=a, b=b), defaultdict),
    "UserDict": (lambda a, b: UserDict(a=a, b=b), UserDict),
    "mapping": (lambda a, b: Frozen({"a": a, "b": b}), Frozen),
    "mapping with another constructor": (lambda a, b: Options(a=a, b=b), dict),
    "dataclass": (Record, Record),
    "ModelOutput": (lambda a, b: ImageClassifierOutput(logits=a, hidden_states=b), ImageClassifierOutput),
}


def values(output):
    """The values of an output of one of these structures, as a list."""
    if isinstance(output, Record):
        return [output.a, output.b]
    return list(output.values()) if isinstance(output, Mapping) else list(output)


@pytest.mark.parametrize("name", STRUCTURES)
def test_outputs_of_every_structure(name):
    """Nested: a tensor, and a list of a tensor without axes, None and the same structure."""
    make, result_type = STRUCTURES[name]

    def output(start, stop):
        rows = torch.arange(start, stop).float()
        return make(rows, [torch.tensor(float(start)), None, make(rows + 10, "text")])

    tensors = list(iter_tensors(output(0, 3)))
    assert [t.tolist() for t in tensors] == [[0, 1, 2], 0, [10, 11, 12]]

    joined = concatenate_outputs([output(0, 3), output(3, 5)])
    first, (scalars, nothing, inner) = values(joined)
    assert type(joined) is type(inner) is result_type
    assert first.tolist() == [0, 1, 2, 3, 4]
    assert scalars.tolist() == [0, 3]
    assert nothing is None
    assert values(inner)[0].tolist() == [10, 11, 12, 13, 14]
    assert values(inner)[1] == "text"

    selected = select_samples(output(0, 3), 1, 3, 3)
    first, (scalar, _, inner) = values(selected)
    assert type(selected) is result_type
    assert [first.tolist(), scalar.item(), values(inner)[0].tolist()] == [[1, 2], 0, [11, 12]]


def test_fields_are_matched_by_name():
    joined = concatenate_outputs([{"a": torch.zeros(1), "b": torch.ones(1)}, {"b": torch.ones(1), "a": torch.zeros(1)}])
    assert {key: value.tolist() for key, value in joined.items()} == {"a": [0, 0], "b": [1, 1]}


def test_concatenation_keeps_the_graph_on_request():
    x = torch.ones(2, requires_grad=True)
    assert concatenate_outputs([[x], [x]], graph=True)[0].requires_grad
    assert not concatenate_outputs([[x]])[0].requires_grad


def test_selection_leaves_tensors_of_another_size():
    assert select_samples((torch.ones(5), torch.ones(3)), 0, 1, 3)[0].shape == (5,)


def test_structures_are_not_registered_with_torch():
    map_outputs(lambda t: t, Record(torch.ones(1), Frozen({})))
    assert torch.utils._pytree.tree_leaves(Record(1, 2)) == [Record(1, 2)]
