"""Mistakes of whoever starts a server are one line each."""

import socket

import pytest

from tests.deploy.server.conftest import save_model


def one_line(text):
    (line,) = text.strip().splitlines()
    return line


def test_help_fits_a_screen_and_shows_an_example(resnets):
    code, out, _ = resnets("serve", "--help")
    assert code == 0
    assert len(out.splitlines()) <= 24
    assert "Example: resnets serve" in out


def test_mistakes_are_one_line(resnets, tmp_path):
    pytest.importorskip("fastapi")
    model = save_model(tmp_path / "tiny.safetensors")
    (tmp_path / "words").write_text("two words")
    (tmp_path / "empty").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, words in (
            ([model, "--port", port], "in use"),
            (["resnet999"], "unknown model"),
            ([model, model], "two models called 'tiny'"),
            ([f"={model}"], "without a name"),
            ([model, "--token-file", "absent"], "--token-file"),
            ([model, "--token-file", "words"], "single word"),
            ([model, "--samples", "empty"], "no images"),
            ([model, "--samples", "nowhere"], "no such folder"),
            ([model, "--log", "xml"], "--log"),
            ([model, "--host", "no.such.host.invalid"], "cannot listen"),
            ([model, "--runtime", "turbo"], "--runtime"),
            ([model, "--device", "cuda:77"], "--device"),
        ):
            code, _, err = resnets("serve", "--port", 0, *arguments)
            assert code == 2, err
            assert words in one_line(err)
