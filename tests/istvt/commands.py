"""Helpers of tests that run a command as the terminal does."""

from istvt.cli.main import main


def refused(capsys, arguments: list[str]) -> str:
    """The one sentence with which a command refuses."""
    capsys.readouterr()
    assert main(arguments) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("istvt: ")
    assert "\n" not in message
    assert "Traceback" not in message
    return message
