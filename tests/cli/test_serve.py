"""Mistakes of whoever starts a server are one line each."""

import math
import socket

import pytest

from resnets.cli import serve as verb
from resnets.support.errors import UserError
from tests.serve.conftest import save_model


def one_line(text):
    (line,) = text.strip().splitlines()
    return line


def test_help_fits_a_screen_and_shows_an_example(resnets):
    code, out, _ = resnets("serve", "--help")
    assert code == 0
    assert len(out.splitlines()) <= 24
    assert "Example: resnets serve" in out


@pytest.mark.parametrize(
    ("word", "token"), [("sesame\n", "sesame"), ("", None), ("two words", 2), ("\n", 2)]
)
def test_a_token_of_the_environment_is_read_like_that_of_a_file(resnets, monkeypatch, word, token):
    pytest.importorskip("fastapi")
    from resnets.serve import server

    calls = []
    monkeypatch.setattr(server, "serve", lambda options, *rest: calls.append(options) or True)
    monkeypatch.setenv("RESNETS_TOKEN", word)
    code, _, err = resnets("serve")
    if token == 2:
        assert code == 2
        assert "RESNETS_TOKEN" in one_line(err)
    else:
        assert code == 0
        assert calls[0].token == token


def test_a_token_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "token").write_text("sesame\r\n", "utf-8-sig")
    assert verb._token(tmp_path / "token") == "sesame"


def test_names_of_the_server_are_handed_over_as_browsers_write_them(resnets, monkeypatch):
    pytest.importorskip("fastapi")
    from resnets.serve import server

    calls = []
    monkeypatch.setattr(server, "serve", lambda options, *rest: calls.append(options) or True)
    monkeypatch.delenv("RESNETS_TOKEN", raising=False)
    given = ("--allow-origin", "HTTPS://Photos.Example:8443", "--allow-host", "A.example")
    assert resnets("serve", *given, "--root-path", "/photos/")[0] == 0
    assert calls[0].origins == ["https://photos.example:8443"]
    assert (calls[0].hosts, calls[0].root_path) == (["A.example"], "/photos")


def test_a_time_that_is_no_number_is_refused(tmp_path):
    pytest.importorskip("fastapi")
    with pytest.raises(UserError, match="--timeout nan: not a number"):
        verb.serve([str(tmp_path / "absent")], timeout=math.nan)


def test_mistakes_are_one_line(resnets, tmp_path):
    pytest.importorskip("fastapi")
    model = save_model(tmp_path / "tiny.safetensors")
    (tmp_path / "two-words").write_text("two words")
    (tmp_path / "blank").write_text(" \n")
    (tmp_path / "of-windows").write_text("sesame", "utf-16")
    (tmp_path / "empty").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, message in (
            ([model, "--port", port], "in use"),
            (["resnet999"], "unknown model"),
            ([model, model], "two models called 'tiny'"),
            ([f"={model}"], "without a name"),
            ([model, "--token-file", "absent"], "--token-file"),
            ([model, "--token-file", "two-words"], "must be one word"),
            ([model, "--samples", "empty"], "no images"),
            ([model, "--samples", "nowhere"], "no such folder"),
            ([model, "--log", "xml"], "--log"),
            ([model, "--allow-host", "http://x/"], "not a host name"),
            ([model, "--token-file", "blank"], "--token-file blank: is empty"),
            ([model, "--token-file", "/dev/zero"], "must be one word"),
            ([model, "--token-file", "of-windows"], "must be one word"),
            ([model, "--allow-origin", "photos.example"], "not a site's origin"),
            ([model, "--allow-origin", "https://x.example/path"], "without a path"),
            ([model, "--root-path", "photos"], "--root-path photos: not a URL path"),
            ([model, "--root-path", "/a b"], "not a URL path"),
            ([tmp_path / "lr=0.1"], "lr=0.1"),
            ([f"my/photos={model}"], "a model's name has no slash; give one without"),
            ([f"two\nlines={model}"], "not the name of a model"),
            ([model, "--host", "no.such.host.invalid"], "cannot listen"),
            ([model, "--runtime", "turbo"], "--runtime"),
            ([model, "--device", "cuda:77"], "--device"),
        ):
            code, _, err = resnets("serve", "--port", 0, *arguments)
            assert code == 2, err
            assert message in one_line(err)
