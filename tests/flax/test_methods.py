"""Methods that are wrapped for a while."""

import functools
import threading

import jax
import pytest

from igjax.flax._methods import wrapped


class Root:
    def of_root(self):
        return "root"


class Mixin:
    def mixed(self):
        return "mixed"


class Base(Root):
    def __call__(self):
        return "base"

    def method(self):
        return "method"

    @jax.jit
    def compiled(self):
        return 1

    def _private(self):
        return "private"

    def __len__(self):
        return 1

    @staticmethod
    def static():
        return "static"

    @classmethod
    def of_class(cls):
        return "class"

    @property
    def attribute(self):
        return "attribute"


class Derived(Mixin, Base):
    def __call__(self):
        return "derived " + super().__call__()


def wrap(name, method):
    @functools.wraps(method)
    def call(self):
        return f"<{method.__get__(self, type(self))()}>"

    return call


wrapping = functools.partial(wrapped, root=Root, wrap=wrap)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Base, {"__call__", "method", "compiled"}),
        (Derived, {"__call__", "mixed"}),  # Base's own are wrapped with Base
    ],
)
def test_a_class_has_its_own_methods_wrapped_and_is_then_as_it_was(kind, expected):
    before = dict(vars(kind)), dict(vars(Mixin))
    with wrapping(kind):
        changed = {name for name, value in vars(kind).items() if value is not before[0].get(name)}
    assert changed == expected
    assert (dict(vars(kind)), dict(vars(Mixin))) == before


def test_classes_are_wrapped_for_as_long_as_any_call_lasts():
    with wrapping(Base):
        assert Derived()() == "derived <base>"
        with wrapping(Derived), wrapping(Base):
            assert Derived()() == "<derived <base>>"
        assert Derived()() == "derived <base>"
        entered, leave = threading.Event(), threading.Event()

        def other():
            with wrapping(Base):
                entered.set()
                leave.wait(60)

        thread = threading.Thread(target=other)
        thread.start()
        assert entered.wait(60)
    assert Base().method() == "<method>"  # the other thread is not done
    leave.set()
    thread.join()
    assert (Base().method(), Derived()()) == ("method", "derived base")


def test_what_fails_halfway_leaves_nothing_behind():
    before = dict(vars(Base))

    def failing(name, method):
        if name == "compiled":
            raise RuntimeError(name)
        return wrap(name, method)

    with pytest.raises(RuntimeError, match="compiled"), wrapped(Base, Root, failing):
        pass
    assert dict(vars(Base)) == before
    with pytest.raises(TypeError, match="argument"), wrapping(Base):
        Base().method("too", "many")
    assert dict(vars(Base)) == before
    with wrapping(Base):
        assert Base().method() == "<method>"
