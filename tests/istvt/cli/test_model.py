"""`istvt model`: the published cost tables."""

from istvt.cli.main import main


def test_the_published_cost_tables_are_printed(capsys):
    assert main(["model", "--preset", "seed"]) == 0
    assert "235.757" in capsys.readouterr().out
    assert main(["model", "--preset", "published", "--model.frames", "16"]) == 0
    assert "576.399" in capsys.readouterr().out
