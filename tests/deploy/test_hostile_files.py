"""Packed files that somebody has edited, checksum included: each is one sentence, and none gets as far as C."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from sparsernn.core.errors import InputError
from sparsernn.deploy import pack, read_packed, unpack
from sparsernn.deploy.packed import _write
from sparsernn.deploy.unpacking import read_table


def model():
    """Two masked matrices (one of them tied), a masked vector, and dense tensors."""
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(5, 6, generator=generator) < 0.4 for name in "wv"}
    state = {name: torch.randn(5, 6, generator=generator) * mask for name, mask in masks.items()}
    state |= {"tied": state["w"], "b": torch.randn(5, generator=generator), "n": torch.tensor(3)}
    return state, masks


@pytest.fixture(params=["float32", "int8", "int4"])
def good(request, tmp_path):
    """A good file, what it says about itself, and the tensors that lie in it."""
    state, masks = model()
    path = tmp_path / "good"
    pack(state, masks, path, values=request.param, recipe={"name": "a"}, vocabulary="ab12")
    about, _ = read_table(path)
    return path, about, stored(path)


def stored(path):
    return load_file(path)


def edit(**parts):
    """Changes of the table's entry of w."""

    def change(about, tensors):
        about["tensors"]["w"] |= parts

    return change


def put(where, value):
    """A change at a place of the table; "/": of its parts."""

    def change(about, tensors):
        node = about
        *way, last = where
        for key in way:
            node = node[key]
        node[last] = value

    return change


def drop(*where):
    def change(about, tensors):
        node = about
        *way, last = where
        for key in way:
            node = node[key]
        del node[last]

    return change


def tensor(name, make):
    """Another tensor, made of the one that is there."""

    def change(about, tensors):
        made = make(tensors[name])
        if made is None:
            del tensors[name]
        else:
            tensors[name] = made

    return change


def more(about, tensors):
    tensors["spare"] = torch.zeros(3)


HOSTILE = {
    "no table": put(["tensors"], []),
    "table of numbers": put(["tensors"], {"w": 3}),
    "no tensors": drop("tensors"),
    "no recipe": drop("recipe"),
    "a recipe of text": put(["recipe"], "rm"),
    "no vocabulary": drop("vocabulary"),
    "a vocabulary of numbers": put(["vocabulary"], [1]),
    "no values": drop("values"),
    "other values": put(["values"], "float16"),
    "no way of storing": drop("tensors", "w", "as"),
    "another way of storing": edit(**{"as": "zip"}),
    "a list for a way": edit(**{"as": ["bits"]}),
    "no shape": drop("tensors", "w", "shape"),
    "a shape of text": edit(shape="5x6"),
    "a shape of floats": edit(shape=[5.0, 6.0]),
    "a shape of truths": edit(shape=[True, True]),
    "a negative shape": edit(shape=[-5, -6]),
    "a shape too large by one": edit(shape=[5, 7]),
    "a shape of too many rows": edit(shape=[6, 6]),
    "a shape too small": edit(shape=[5, 4]),
    "an absurd shape": edit(shape=[1 << 40, 1 << 40]),
    "a shape beyond every integer": edit(shape=[1 << 80, 6]),
    "a shape of many axes": edit(shape=[1] * 98 + [5, 6]),
    "nothing times absurd": edit(shape=[0, 1 << 47]),
    "dense without a tensor": edit(**{"as": "dense"}),
    "an alias of nothing": put(["tensors", "tied", "of"], "x"),
    "an alias of itself": put(["tensors", "tied", "of"], "tied"),
    "an alias of a list": put(["tensors", "tied", "of"], ["w"]),
    "an alias without an end": put(["tensors", "w"], {"as": "alias", "of": "tied"}),
    "an alias that leaves parts over": put(["tensors", "w"], {"as": "alias", "of": "v"}),
    "a tensor that nobody names": more,
    "one name less": drop("tensors", "b"),
    "one name more": put(["tensors", "x"], {"as": "dense"}),
    "no bits": tensor("w/bits", lambda t: None),
    "fewer bits": tensor("w/bits", lambda t: t[:-1]),
    "more bits": tensor("w/bits", lambda t: torch.cat([t, t])),
    "bits of another type": tensor("w/bits", lambda t: t.to(torch.int64)),
    "bits of another shape": tensor("w/bits", lambda t: t.view(1, -1)),
    "all bits": tensor("w/bits", lambda t: torch.full_like(t, 255)),
    "no bit": tensor("w/bits", torch.zeros_like),
    "no values for bits": tensor("w/values", lambda t: None),
    "fewer values": tensor("w/values", lambda t: t[:-1]),
    "more values": tensor("w/values", lambda t: torch.cat([t, t])),
    "one value for all": tensor("w/values", lambda t: t[:1]),
    "a value in a table": tensor("w/values", lambda t: t.view(-1, 1)),
}
HOSTILE_INT8 = {
    "another type before": edit(dtype="int32"),
    "a type of numbers": edit(dtype=3),
    "factors left out": tensor("w/scale", lambda t: None),
    "fewer factors": tensor("w/scale", lambda t: t[:-1]),
    "one factor for all": tensor("w/scale", lambda t: t[:1]),
    "factors of another type": tensor("w/scale", lambda t: t.double()),
    "a factor that is no number": tensor(
        "w/scale", lambda t: t.index_fill(0, torch.tensor([2]), float("nan"))
    ),
    "an endless factor": tensor("w/scale", lambda t: t.index_fill(0, torch.tensor([2]), float("inf"))),
    "a factor below 0": tensor("w/scale", lambda t: -t - 1),
    "values of another type": tensor("w/values", lambda t: t.float()),
    "a vector in 8 bits": edit(shape=[30]),
}


def refused(path):
    for read in (unpack, read_packed):
        with pytest.raises(InputError) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
    return str(caught.value)


def written(path, about, tensors, change):
    about, tensors = copy.deepcopy(about), dict(tensors)
    change(about, tensors)
    _write(path, tensors, json.dumps(about))
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_an_edited_file_is_one_sentence(name, good, tmp_path):
    _, about, tensors = good
    refused(written(tmp_path / "bad", about, tensors, HOSTILE[name]))


@pytest.mark.parametrize("name", HOSTILE_INT8)
@pytest.mark.parametrize("good", ["int8"], indirect=True)
def test_edited_8_bits_are_one_sentence(name, good, tmp_path):
    _, about, tensors = good
    refused(written(tmp_path / "bad", about, tensors, HOSTILE_INT8[name]))


def test_an_unedited_file_is_read(good, tmp_path):
    """What the tables above do is in the changes and not in how they are written."""
    path, about, tensors = good
    again = written(tmp_path / "again", about, tensors, lambda about, tensors: None)
    assert all(torch.equal(t, unpack(path)[name]) for name, t in unpack(again).items())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "[" * 100_000,
        '{"tensors": {}, "tensors": {}, "recipe": {}, "vocabulary": "", "values": "int8"}',
        '{"tensors": {}, "recipe": {"lr": NaN}, "vocabulary": "", "values": "int8"}',
        '{"tensors": {}, "recipe": {"lr": ' + "9" * 5000 + '}, "vocabulary": "", "values": "int8"}',
        '{"tensors": {}, "recipe": {}, "vocabulary": "", "values": "int8"}',
    ],
    ids=["empty", "half", "null", "list", "nested", "twice", "NaN", "digits", "without its tensor"],
)
def test_a_table_that_is_none_is_one_sentence(text, tmp_path):
    _write(tmp_path / "bad", {"b": torch.zeros(2)}, text)
    refused(tmp_path / "bad")


def container(header, data=b""):
    """A safetensors file of these bytes."""
    return len(header).to_bytes(8, "little") + header + data


F32 = b'{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
BYTES = {
    "nothing": lambda whole: b"",
    "7 bytes": lambda whole: whole[:7],
    "half a header": lambda whole: whole[:200],
    "half of the tensors": lambda whole: whole[:-30],
    "a byte more": lambda whole: whole + b"\0",
    "a header longer than the file": lambda whole: len(whole).to_bytes(8, "little") + whole[8:],
    "a header of 2^63 bytes": lambda whole: (1 << 63).to_bytes(8, "little") + whole[8:],
    "a header of no bytes": lambda whole: bytes(8) + whole[8:],
    "a header that is no text": lambda whole: whole[:8] + b"\xff\xfe" + whole[10:],
    "another bit in the tensors": lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
    "another letter in the table": lambda whole: whole.replace(b"ab12", b"ab13"),
    "another checksum": lambda whole: whole.replace(b"sha256", b"sha257"),
    "another format": lambda whole: whole.replace(b"sparsernn-packed-1", b"sparsernn-packed-2"),
    "a name twice": lambda whole: container(b'{"a":' + F32 + b',"a":' + F32 + b"}", bytes(8)),
    "tensors in one place": lambda whole: container(b'{"a":' + F32 + b',"b":' + F32 + b"}", bytes(8)),
    "a tensor beyond the end": lambda whole: container(b'{"a":' + F32 + b"}", bytes(4)),
    "an unknown type": lambda whole: container(b'{"a":' + F32.replace(b"F32", b"F33") + b"}", bytes(8)),
    "an absurd shape": lambda whole: container(
        b'{"a":' + F32.replace(b"[2]", b"[%d]" % (1 << 62)) + b"}", bytes(8)
    ),
    "nested without an end": lambda whole: container(b"[" * 200_000),
    "nothing said": lambda whole: container(b'{"a":' + F32 + b"}", bytes(8)),
    "half of what is said": lambda whole: container(
        b'{"__metadata__":{"format":"sparsernn-packed-1"},"a":' + F32 + b"}", bytes(8)
    ),
}


@pytest.mark.parametrize("name", BYTES)
def test_damaged_bytes_are_one_sentence(name, good, tmp_path):
    changed = BYTES[name](good[0].read_bytes())
    assert changed != good[0].read_bytes()
    (tmp_path / "bad").write_bytes(changed)
    refused(tmp_path / "bad")


ODD = (
    st.none() | st.booleans() | st.integers(-3, 40) | st.text(max_size=3) | st.just("alias") | st.just([5, 6])
)


@settings(max_examples=150)
@given(draw=st.data())
def test_any_change_of_the_table_is_read_whole_or_refused(draw, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "m"
    state, masks = model()
    pack(state, masks, path, values=draw.draw(st.sampled_from(["float32", "int8", "int4"])))
    about, _ = read_table(path)
    tensors, node = stored(path), about
    while True:
        key = draw.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], dict | list) or not node[key] or draw.draw(st.booleans()):
            node[key] = draw.draw(ODD)
            break
        node = node[key]
    _write(path, tensors, json.dumps(about))
    try:
        found = read_packed(path)
    except InputError:
        return
    assert set(found.state) == set(about["tensors"])
    assert all(found.masks[name].shape == found.state[name].shape for name in found.masks)
