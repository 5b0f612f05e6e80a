"""Is any error told in 25 lines, of which the first three are what, where and what to do?"""

from __future__ import annotations

import inspect
import pickle
import runpy
from pathlib import Path

import pytest

from shoal import errors
from shoal.errors import ConfigError, EnvError, ShoalError
from shoal.process import tracebacks
from shoal.process.tracebacks import describe

FILE = __file__.rpartition("/")[2]


def caught(function, *args) -> BaseException:
    with pytest.raises(BaseException) as info:
        function(*args)
    return info.value


def line_of(text: str) -> int:
    return next(
        n for n, line in enumerate(Path(__file__).read_text().split("\n"), 1) if text in line
    )


def test_str_is_what_where_what_to_do() -> None:
    error = ShoalError("it is broken", where="here.py:3", fix="mend it")
    assert str(error) == "it is broken\n  where: here.py:3\n  to do: mend it"
    assert str(ShoalError("it is broken")) == "it is broken"


def test_errors_survive_a_process_border() -> None:
    """As Ray sends them; nothing of Shoal's own reads such bytes."""
    error = EnvError("what", fix="how")
    error.locate("file.py:3")
    error.add_note("a note")
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.__notes__, type(back)) == (str(error), ["a note"], EnvError)


def test_exit_codes() -> None:
    assert (ConfigError("").exit_code, EnvError("").exit_code) == (2, 1)


def test_the_users_line_is_found_below_library_frames() -> None:
    """The exception is raised in the standard library, called from a line of this file."""

    def users():
        return inspect.signature(3)  # user line

    lines = describe(caught(users)).split("\n")
    assert lines[0] == "TypeError: 3 is not a callable object"
    assert f"{FILE}:{line_of('# user ' + 'line')} in users: return inspect" in lines[1]
    assert "correct the line above" in lines[2]


def test_the_cause_is_where_it_happened() -> None:
    def origin():
        raise KeyError("left")  # the origin

    def wrapping():
        try:
            origin()
        except KeyError as error:
            raise EnvError("cannot go left") from error

    lines = describe(caught(wrapping)).split("\n")
    assert lines[0] == "EnvError: cannot go left"
    assert f":{line_of('# the ori' + 'gin')} in origin" in lines[1]


def test_an_error_that_the_user_raises_is_where_it_is_raised() -> None:
    """Whatever was being handled at the time, or is given as its cause."""

    def unrelated():
        try:
            int("x")
        except ValueError:
            raise KeyError("y")  # noqa: B904  # second fault

    def explained():
        try:
            int("x")
        except ValueError as error:
            raise KeyError("y") from error  # chosen fault

    for function, mark in ((unrelated, "# second "), (explained, "# chosen ")):
        place = f":{line_of(mark + 'fault')} in {function.__name__}"
        assert place in describe(caught(function)).split("\n")[1]


def test_only_the_users_frames_are_shown_and_deep_ones_are_cut() -> None:
    def deeper(n):
        return 1 // n if n == 0 else deeper(n - 1)

    text = describe(caught(deeper, 200), "shoal train x")
    assert len(text.split("\n")) <= 25 and "calls left out" in text
    assert "site-packages" not in text and "reproduce: shoal train x" in text
    assert len(describe(caught(deeper, 50_000)).split("\n")) <= 25  # RecursionError


@pytest.mark.parametrize("size", [10, 3000, 3_000_000])
def test_long_messages_are_cut(size: int) -> None:
    def loud():
        error = ValueError("x y\n" * size)
        for _ in range(50):
            error.add_note("note " * size)
        raise error

    text = describe(caught(loud), "shoal train x")
    assert len(text) < 5000 and len(text.split("\n")) <= 25
    assert "x y" in text.split("\n")[0] and "reproduce" in text


def test_a_file_that_python_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text("x = 1\nif x\n")
    lines = describe(caught(runpy.run_path, str(tmp_path / "half.py"))).split("\n")
    assert lines[0].startswith("SyntaxError") and "half.py:2" in lines[1] and "if x" in lines[1]


def test_a_missing_module_gives_the_command() -> None:
    def users():
        import a_module_that_is_not_there.inner  # noqa: F401

    assert describe(caught(users)).split("\n")[2].endswith("pip install a_module_that_is_not_there")


def test_odd_exceptions() -> None:
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no")

    def loop():
        error = ValueError("a")
        error.__cause__ = error
        raise error

    def group():
        raise ExceptionGroup("several", [ValueError("first"), KeyError("second")])

    def mute():
        raise Mute

    assert "cannot be shown" in describe(caught(mute)).split("\n")[0]
    assert describe(caught(loop)).startswith("ValueError: a")
    assert describe(caught(group)).startswith("ExceptionGroup: several")
    lines = describe(ValueError()).split("\n")
    assert lines[0] == "ValueError" and "no traceback" in lines[1]
    assert describe(KeyboardInterrupt()).startswith("KeyboardInterrupt")


def test_a_fault_of_shoal_is_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracebacks, "is_user_code", lambda filename: False)
    assert "fault of Shoal" in describe(caught(errors.cut, 3)).split("\n")[2]
    told = describe(caught(_raise, ConfigError("lr is -1", "algorithm.lr", "use 1e-3")))
    assert told == "ConfigError: lr is -1\n  where: algorithm.lr\n  to do: use 1e-3"


def _raise(error: BaseException) -> None:
    raise error


def test_what_counts_as_the_users_code() -> None:
    assert tracebacks.is_user_code(__file__) and tracebacks.is_user_code("<stdin>")
    assert not tracebacks.is_user_code(errors.__file__)
    assert not tracebacks.is_user_code(inspect.__file__)
    assert not tracebacks.is_user_code(pytest.__file__)
    assert not tracebacks.is_user_code("<frozen importlib._bootstrap>")


def test_a_fault_inside_of_shoal_is_not_the_fault_of_the_line_that_called_it() -> None:
    def user():
        return tracebacks.here(3)  # no text

    lines = describe(caught(user)).split("\n")
    assert "this looks like a fault of Shoal" in lines[2]
    assert f"{FILE}:{line_of('# no ' + 'text')}" in "\n".join(lines)


def test_memory_that_shoal_lacks_is_a_matter_of_settings() -> None:
    lines = describe(caught(bytearray, 2**62)).split("\n")
    assert "correct the line above" in lines[2]  # this file's own line

    lines = describe(MemoryError("Unable to allocate 9 TiB")).split("\n")
    assert "the settings of this run" in lines[1]
    assert "replay.capacity" in lines[2]


def test_extension_modules_are_not_the_users_code() -> None:
    """Their frames have the path that they were compiled at: numpy/random/_common.pyx."""
    script = "import numpy; rng = numpy.random.default_rng(0); n = 2**60\nrng.standard_normal(n)"
    error = caught(exec, compile(script, errors.__file__, "exec"))  # as if Shoal had called it
    assert any(name.endswith(".pyx") for name, *_ in tracebacks.frames_of(error))
    assert not any(
        tracebacks.is_user_code(f) for f, *_ in tracebacks.frames_of(error) if f.endswith("pyx")
    )
